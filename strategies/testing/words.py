"""Words stand in for tokens: the fake engines cut text into words so that joining the words gives the text back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from zlib import crc32

from strop.strategies.kit.types import Chat, Draft, Prefix, Tokens

_WORD = re.compile(r"\n+|[^\S\n]*\S+|[^\S\n]+")


def words(text: str) -> tuple[str, ...]:
    """The pieces of a text: words with the blanks before them, and line breaks."""
    return tuple(_WORD.findall(text))


def word_id(word: str) -> int:
    """A stable token id below 50,000."""
    return crc32(word.encode()) % 50_000


def tokens_of(text: str) -> Tokens:
    """Ids and texts of the words."""
    pieces = words(text)
    return Tokens(tuple(word_id(piece) for piece in pieces), pieces)


def count_prompt(chat: Chat) -> int:
    """Words of everything a chat shows the model."""
    if chat.prompt is not None:
        return len(words(chat.prompt)) if isinstance(chat.prompt, str) else len(chat.prompt)
    turns = (
        len(words(m.content)) + sum(len(words(c.name + " " + c.arguments)) for c in m.tool_calls) for m in chat.messages
    )
    return sum(turns) + sum(len(words(tool.description)) + 1 for tool in chat.tools)


def continued(prefix: Prefix, addition: Draft) -> Draft:
    """The whole turn: the prefix, what was inserted after it, and the words that followed.

    A prefix whose draft came without tokens is cut into words first, so the turn always has its tokens.
    """
    before, inserted = prefix.draft.tokens or tokens_of(prefix.draft.text), tokens_of(prefix.inject)
    spans = prefix.draft.injected + (((len(before), len(before) + len(inserted)),) if len(inserted) else ())
    tokens = join([before, inserted, addition.tokens])
    return Draft(
        prefix.draft.text + prefix.inject + addition.text,
        addition.finish,
        addition.tool_calls,
        tokens,
        len(tokens),
        spans,
        addition.stop_reason,
    )


def join(parts: Sequence[Tokens]) -> Tokens:
    """Tokens one after the other; a column that some part lacks is filled with zeros, one that all lack stays empty."""
    filled = [part for part in parts if len(part)]
    columns: dict[str, tuple[object, ...]] = {}
    for name, blank in (("ids", 0), ("texts", ""), ("logprobs", 0.0), ("entropies", 0.0), ("certainties", 0.0)):
        if any(getattr(part, name) for part in filled):
            columns[name] = tuple(value for part in filled for value in (getattr(part, name) or (blank,) * len(part)))
    return Tokens(**columns)  # type: ignore[arg-type]
