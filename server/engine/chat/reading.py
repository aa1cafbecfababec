"""Taking a finished turn apart: its answer, its reasoning, its tool calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from strop.server.engine.chat.toolcalls import Call, parse_calls
from strop.strategies.kit.types import Tool


@dataclass(frozen=True, slots=True)
class Turn:
    """What a model wrote, by purpose."""

    content: str
    calls: tuple[Call, ...] = ()
    reasoning: str = ""


class Reader(Protocol):
    """Reads turns of one model."""

    def read(self, text: str, ids: tuple[int, ...], tools: tuple[Tool, ...]) -> Turn:
        """Take a turn apart. `ids` are its tokens if they spell all of `text`; `tools` may be called."""
        ...


class HermesReader:
    """For models that write calls as JSON in <tool_call> tags, as the prompts of `template` ask them to."""

    def read(self, text: str, ids: tuple[int, ...], tools: tuple[Tool, ...]) -> Turn:  # noqa: ARG002
        """Calls of known functions; everything else is content."""
        if not tools:
            return Turn(text)
        parsed = parse_calls(text, [tool.name for tool in tools])
        return Turn(parsed.content, parsed.calls) if parsed.calls else Turn(text)
