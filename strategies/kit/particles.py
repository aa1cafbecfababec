"""Weights of particles and their resampling: pure arithmetic, randomness passed in."""

from __future__ import annotations

import math
from collections.abc import Sequence

CLIP = 1e-7
"""Scores nearer to 0 or 1 than this count as this near."""


def logit(score: float, clip: float = CLIP) -> float:
    """log(score / (1 - score)) of a score in [0, 1]; clipped, so always finite. Raises ValueError for other scores."""
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"a score must lie in [0, 1], but is {score}")
    inner = min(max(score, clip), 1.0 - clip)
    return math.log(inner / (1.0 - inner))


def weights(scores: Sequence[float | None], temperature: float = 1.0) -> list[float]:
    """Shares of the particles: softmax of logit(score) / temperature. They add up to 1.

    A particle without a score weighs as much as the mean logit of the others; without any score all weigh the same.
    """
    known = [logit(score) for score in scores if score is not None]
    neutral = math.fsum(known) / len(known) if known else 0.0
    logits = [neutral if score is None else logit(score) for score in scores]
    top = max(logits, default=0.0)
    odds = [math.exp((value - top) / temperature) for value in logits]
    total = math.fsum(odds)
    return [odd / total for odd in odds]


def effective(shares: Sequence[float]) -> float:
    """Effective number of particles, 1 / sum of squared shares: 1 when one has all, len(shares) when all are equal."""
    return 1.0 / math.fsum(share * share for share in shares)


def systematic(shares: Sequence[float], count: int, u: float) -> list[int]:
    """How many of `count` copies each particle gets by systematic resampling with one uniform number u in [0, 1).

    A particle with share w gets the floor or the ceiling of count * w, and count * w on average over u.
    """
    copies, reached, drawn = [], 0.0, 0
    for place, share in enumerate(shares):
        reached += share * count
        upto = count if place == len(shares) - 1 else min(count, max(drawn, math.ceil(reached - u)))
        copies.append(upto - drawn)
        drawn = upto
    return copies


def pick(shares: Sequence[float], u: float) -> int:
    """The place that a uniform number u in [0, 1) falls on, when the shares are laid end to end."""
    reached = 0.0
    for place, share in enumerate(shares):
        reached += share
        if u < reached:
            return place
    return len(shares) - 1
