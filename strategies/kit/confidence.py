"""How sure a model was while it wrote: token and group confidence (DeepConf, arXiv 2508.15260). Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from strop.strategies.kit.types import Draft, Tokens

Measure = Literal["mean", "tail", "bottom", "lowest"]

IMPOSSIBLE = -1000.0
"""Logprobs below this stand for tokens that cannot come; they say nothing about the others."""


def token_confidences(tokens: Tokens) -> list[float]:
    """-(1/k) sum of the top-k logprobs, for every token that has alternatives: in nats, higher is surer."""
    rows = ([logprob for _, _, logprob in row if logprob > IMPOSSIBLE] for row in tokens.top)
    return [-math.fsum(row) / len(row) for row in rows if row]


def group_confidences(confidences: Sequence[float], window: int) -> list[float]:
    """Means of every `window` neighbours; of all of them if there are fewer; nothing of nothing."""
    if not confidences:
        return []
    size = min(window, len(confidences))
    total = math.fsum(confidences[:size])
    groups = [total / size]
    for new, old in zip(confidences[size:], confidences, strict=False):
        total += new - old
        groups.append(total / size)
    return groups


def draft_confidence(draft: Draft, measure: Measure, window: int) -> float | None:
    """One number for a draft; None if the engine reported no alternatives.

    "mean" is over all tokens, "tail" over the last `window`, "bottom" over the lowest tenth of the groups (at least
    one), "lowest" is the lowest group.
    """
    confidences = token_confidences(draft.tokens)
    groups = sorted(group_confidences(confidences, window))
    if not groups:
        return None
    match measure:
        case "mean":
            part: Sequence[float] = confidences
        case "tail":
            part = confidences[-window:]
        case "bottom":
            part = groups[: max(1, len(groups) // 10)]
        case "lowest":
            part = groups[:1]
    return math.fsum(part) / len(part)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the values lie, interpolated linearly. Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    ranked = sorted(values)
    place = (len(ranked) - 1) * percent / 100.0
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (place - low)
