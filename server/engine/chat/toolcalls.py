"""Tool calls in text: finding them, and forcing them by a grammar."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strop.server.engine.chat.types import Grammar

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Call:
    """One function call; `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """A turn taken apart: what is left as text, and the calls in order."""

    content: str
    calls: tuple[Call, ...]


def parse_calls(text: str, names: Iterable[str]) -> Parsed:
    """Find calls of the functions `names`: `<tool_call>{"name": ..., "arguments": ...}</tool_call>` blocks, or a text
    that is nothing but such a JSON object (or a list of them), fenced or not. What is not a call of a known function
    stays text.
    """
    known = frozenset(names)
    bare = _calls_of(_json(_unfenced(text.strip())), known)
    if bare:
        return Parsed("", bare)
    content = ""
    calls: list[Call] = []
    rest = text
    while OPEN in rest:
        before, _, after = rest.partition(OPEN)
        found, length = _block(after, known)
        if found:
            content, calls, rest = content + before, [*calls, *found], after[length:]
        else:
            content, rest = content + before + OPEN, after
    content += rest
    return Parsed(content.strip() if calls else content, tuple(calls))


def forced_call(tools: Sequence[Mapping[str, Any]], name: str | None = None) -> Grammar:
    """The grammar of exactly one call, as bare JSON: of the tool `name`, or of any of `tools` (OpenAI shape).

    ValueError if there is no such tool.
    """
    functions = [tool["function"] for tool in tools if name is None or tool["function"]["name"] == name]
    if not functions:
        raise ValueError(f"there is no tool named {name!r}" if name else "a call is required but there are no tools")
    shapes = [_shape(function) for function in functions]
    definitions: dict[str, Any] = {}
    for shape in shapes:
        definitions |= shape["properties"]["arguments"].pop("$defs", {})
    schema: dict[str, Any] = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    return Grammar("json_schema", schema={**schema, "$defs": definitions} if definitions else schema)


def _shape(function: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            "arguments": dict(function.get("parameters") or {"type": "object"}),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _block(after: str, known: frozenset[str]) -> tuple[tuple[Call, ...], int]:
    """Calls in the JSON right after an opening tag, and where the text goes on. A missing closing tag is forgiven."""
    start = len(after) - len(after.lstrip())
    try:
        value, end = json.JSONDecoder().raw_decode(after, start)
    except (ValueError, RecursionError):
        return (), 0
    tail = after[end:]
    closed = tail.lstrip()
    if closed.startswith(CLOSE):
        end = len(after) - len(closed) + len(CLOSE)
    return _calls_of(value, known), end


def _calls_of(value: Any, known: frozenset[str]) -> tuple[Call, ...]:
    """All of `value` as calls, or nothing."""
    items = value if isinstance(value, list) else [value]
    calls = [_call(item, known) for item in items]
    return tuple(call for call in calls if call) if all(calls) else ()


def _call(item: Any, known: frozenset[str]) -> Call | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str) or item["name"] not in known:
        return None
    arguments = item.get("arguments", item.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if not isinstance(arguments, dict):
        return None
    return Call(item["name"], json.dumps(arguments, ensure_ascii=False))


def _json(text: str) -> Any:
    """The value, or None if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _unfenced(text: str) -> str:
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") + 1 : -3].strip()
    return text
