"""Prompts are files: `prompts/<name>.md` holds `## section` headings and text with {placeholders}.

`{name}` inserts a value as it is. `{name|fenced}` inserts untrusted text between two lines that carry the request's
random fence word; the word is removed from the text first, so the text cannot close its own fence.
A section `## judge/system` becomes the system turn of the prompt `judge`.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Protocol

from strop.strategies.kit.types import Chat, Message, Sampling

_PLACEHOLDER = re.compile(r"\{([a-z_]+)(\|fenced)?\}")


class HasFence(Protocol):
    """Anything with a request's random word, such as a `Context`."""

    @property
    def fence(self) -> str:
        """The word."""
        ...


def prompt(
    ctx: HasFence, name: str, /, *, package: str = "strop.strategies", sampling: Sampling | None = None, **values: str
) -> Chat:
    """The prompt `file/section` as a chat of its own, tagged with the section's name.

    It carries none of the client's sampling, tools or format, and its drafts are never served as answers.
    Placeholders and keyword arguments must agree exactly; `KeyError` tells what is missing or too much.
    """
    wanted = placeholders(package, name)
    if wanted != set(values):
        raise KeyError(f"prompt '{name}' has the placeholders {sorted(wanted)}, got {sorted(values)}")
    file, _, section = name.partition("/")
    sections = load(package, file)
    turns: list[Message] = []
    if f"{section}/system" in sections:
        turns.append(Message("system", render(sections[f"{section}/system"], ctx.fence, values)))
    turns.append(Message("user", render(sections[section], ctx.fence, values)))
    return Chat(tuple(turns), sampling or Sampling(), tag=section, answers=False)


def placeholders(package: str, name: str) -> set[str]:
    """Names of the placeholders of `file/section`, its system turn included."""
    file, _, section = name.partition("/")
    sections = load(package, file)
    if section not in sections:
        raise KeyError(f"no section '{section}' in prompts/{file}.md; it has {sorted(sections)}")
    text = sections[section] + sections.get(f"{section}/system", "")
    return {match.group(1) for match in _PLACEHOLDER.finditer(text)}


def render(template: str, fence: str, values: dict[str, str]) -> str:
    """Fill in a template. Values are inserted once: braces inside them are left alone."""

    def fill(match: re.Match[str]) -> str:
        name, fenced = match.groups()
        value = values.get(name, match.group(0))
        return _fenced(name, value, fence) if fenced else value

    return _PLACEHOLDER.sub(fill, template)


def _fenced(name: str, value: str, fence: str) -> str:
    return f"<{name} {fence}>\n{value.replace(fence, '')}\n</{name} {fence}>"


@cache
def load(package: str, file: str) -> dict[str, str]:
    """Sections of a prompt file: heading to text."""
    text = (files(package) / "prompts" / f"{file}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## +(\S+) *$", text, flags=re.MULTILINE)
    return {heading: body.strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}
