"""Faults on purpose, so that everything above an engine can be tested against a bad one.

The grammar is `kind:probability[,kind:probability...]`. Kinds: `crash` (fails halfway through the answer), `die` (the
same, and the engine is down for a while), `hang` (never answers), `slow` (ten times the time, at least half a second),
`garbage` (nonsense instead of an answer), `overload` (refuses before any work).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

from strop.strategies.testing.brain import unit

Fault = Literal["crash", "die", "hang", "slow", "garbage", "overload"]


def parsed(text: str) -> Mapping[Fault, float]:
    """Kind to probability; `ValueError` for unknown kinds and for probabilities that are none."""
    found: dict[Fault, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kind, colon, chance = part.partition(":")
        if kind not in get_args(Fault) or not colon:
            raise ValueError(f"not a fault: '{part}'; write kind:probability with one of {', '.join(get_args(Fault))}")
        found[cast(Fault, kind)] = float(chance)
    if any(not 0.0 <= chance <= 1.0 for chance in found.values()) or sum(found.values()) > 1.0:
        raise ValueError(f"the probabilities of faults must be between 0 and 1 and sum to at most 1: '{text}'")
    return found


def drawn(chances: Mapping[Fault, float], key: str) -> Fault | None:
    """The fault that `key` decides, if any."""
    draw = unit("fault", key) if chances else 1.0
    for fault, chance in chances.items():
        if draw < chance:
            return fault
        draw -= chance
    return None


def nonsense(key: str, words: int) -> str:
    """Text without any meaning."""
    return " ".join("".join(chr(97 + int(26 * unit(key, w, c))) for c in range(3 + w % 5)) for w in range(words))
