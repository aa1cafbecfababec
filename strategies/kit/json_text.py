"""JSON inside model text: read it strictly, find it, write it in one canonical form."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_STARTS = 256
"""Most opening braces from which `objects` tries to read; text with more is read from its last ones."""


def read(text: str) -> Any:
    """The value that the whole text is. Integral floats become ints, so 1 and 1.0 are one value.

    Raises ValueError for anything that is not JSON, for a key given twice, and for numbers that are not finite.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def canonical(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that stand in the text, in order; those inside another one are not listed apart."""
    starts = [i for i, char in enumerate(text) if char == "{"][-MAX_STARTS:]
    found: list[dict[str, Any]] = []
    end = 0
    for start in starts:
        if start < end:
            continue
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        found.append(value)
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is given twice")
    return made


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _float(digits: str) -> float | int:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_float=_float)
