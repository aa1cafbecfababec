"""Votes among answers, and when to stop asking for more of them. Pure arithmetic on answer ids.

A ballot names an answer by any hashable id (an int of `math_equal.group`, a canonical string). None is a draft whose
answer could not be read: it does not vote. Neither does a ballot whose weight is None or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

A = TypeVar("A", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Result(Generic[A]):
    """Who won. Shares are of the mass of all ballots that voted.

    `winner` is the index of the ballot to serve: the heaviest one for the winning answer, the first of those.
    `mass` is per answer, in the order first seen. `margin` is the lead over the runner-up, 1.0 without one.
    `entropy` is that of the mass over answers divided by ln(number of ballots that voted): 0 when all agree, 1 when no
    two agree and all weigh the same; 0 for a single ballot.
    """

    winner: int
    answer: A
    mass: dict[A, float]
    share: float
    margin: float
    entropy: float


def majority(answers: Sequence[A | None]) -> Result[A] | None:
    """The commonest answer; of equally common ones the one seen first. None if nobody votes."""
    return weighted(answers, [1.0] * len(answers))


def weighted(answers: Sequence[A | None], weights: Sequence[float | None]) -> Result[A] | None:
    """The answer with the largest sum of weights (weighted best-of-N); of equal ones the one seen first.

    None if nobody votes or all weights are zero. Raises ValueError if a weight is negative or infinite (map logits to
    positive numbers first) or if there are not as many weights as answers.
    """
    ballots: dict[A, list[float]] = {}
    best: dict[A, int] = {}
    for i, (answer, weight) in enumerate(zip(answers, weights, strict=True)):
        if answer is None or weight is None or math.isnan(weight):
            continue
        if not 0 <= weight < math.inf:
            raise ValueError(f"weights must be finite and not negative, not {weight}")
        ballots.setdefault(answer, []).append(weight)
        if answer not in best or weight > (weights[best[answer]] or 0.0):
            best[answer] = i
    mass = {answer: math.fsum(votes) for answer, votes in ballots.items()}
    total = math.fsum(weight for votes in ballots.values() for weight in votes)
    if not total:
        return None
    leader = max(mass, key=lambda answer: mass[answer])
    second = max((m for answer, m in mass.items() if answer != leader), default=0.0)
    return Result(
        winner=best[leader],
        answer=leader,
        mass=mass,
        share=mass[leader] / total,
        margin=(mass[leader] - second) / total,
        entropy=_entropy([m / total for m in mass.values()], sum(map(len, ballots.values()))),
    )


def borda(answers: Sequence[A | None], scores: Sequence[float | None], p: float = 0.5) -> Result[A] | None:
    """Rank voting (self-certainty, arXiv 2502.18581): of N ballots the one ranked r by score gives (N-r+1)^p votes.

    Rank 1 is the highest score; equal scores rank in ballot order. Scores may be any finite numbers: only their order
    matters. p = 0 is majority; a large p is best-of-N. Raises ValueError for infinite scores and a negative p.
    """
    if p < 0:
        raise ValueError(f"p must not be negative, but is {p}")
    if any(score is not None and math.isinf(score) for score in scores):
        raise ValueError("scores must be finite")
    pairs = enumerate(zip(answers, scores, strict=True))
    voters = [(i, score) for i, (answer, score) in pairs if answer is not None and score is not None]
    ranked = sorted(((i, score) for i, score in voters if not math.isnan(score)), key=lambda voter: -voter[1])
    votes: list[float | None] = [None] * len(answers)
    for rank, (i, _) in enumerate(ranked, start=1):
        votes[i] = float(len(ranked) - rank + 1) ** p
    return weighted(answers, votes)


def _entropy(shares: Sequence[float], ballots: int) -> float:
    if ballots < 2:
        return 0.0
    nats = -math.fsum(share * math.log(share) for share in shares if share > 0)
    return min(1.0, max(0.0, nats / math.log(ballots)))


def leader_is_safe(leader: int, runner_up: int, confidence: float = 0.95) -> bool:
    """Whether more samples are unlikely to change the majority (adaptive self-consistency, arXiv 2305.11860).

    With a and b votes for the two commonest answers the leader is really ahead with probability
    P = 1 - I_0.5(a+1, b+1) = 2^-(a+b+1) * sum over k = 0..a of C(a+b+1, k), computed exactly. True if P >= confidence.
    At 0.95 a leader needs 4, 6, 8, 9, 11, 12 votes against 0 to 5. Raises ValueError for negative counts.
    """
    if leader < 0 or runner_up < 0:
        raise ValueError("votes cannot be negative")
    n = leader + runner_up + 1
    return Fraction(sum(math.comb(n, k) for k in range(leader + 1)), 2**n) >= Fraction(str(confidence))


def window_agrees(answers: Sequence[Hashable | None], window: int = 5) -> bool:
    """Early-stopping self-consistency (arXiv 2401.10480): whether any full window of answers is unanimous.

    The answers, in the order drawn, are cut into windows of that size; a last, shorter window does not count. A window
    with an answer that could not be read is not unanimous. The vote then goes over everything drawn.
    Raises ValueError for a window below 1.
    """
    if window < 1:
        raise ValueError(f"a window holds at least 1 answer, not {window}")
    starts = range(0, len(answers) - window + 1, window)
    return any(answers[at] is not None and len(set(answers[at : at + window])) == 1 for at in starts)
