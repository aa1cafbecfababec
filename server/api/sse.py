"""Server-sent events: unnamed data events and comments, nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

# Some clients split lines as Python's `str.splitlines` does, which also splits at these.
_LINE_ENDS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
_ESCAPES = tuple((char.encode(), escape.encode()) for char, escape in _LINE_ENDS)


def data(payload: Mapping[str, Any]) -> bytes:
    """One event."""
    text = dumps(payload)
    for char, escape in _ESCAPES:
        if char in text:
            text = text.replace(char, escape)
    return b"data: " + text + b"\n\n"


def dumps(payload: Mapping[str, Any]) -> bytes:
    """JSON bytes. Numbers that JSON lacks become null; a lone surrogate in a model's text is escaped, not fatal."""
    try:
        return to_json(payload, inf_nan_mode="null")
    except PydanticSerializationError:
        return json.dumps(payload).encode()
