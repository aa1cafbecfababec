"""Make scores comparable: running mean and spread of a scorer's values, and Platt's map from a value to P(correct).

One `Calibration` belongs to one (scorer, model): the same scorer means something else on another model. Everything here
is pure; `dumps` and `loads` carry a table of calibrations between processes as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from math import exp, fsum, isfinite, log, log1p, sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strop.server.scoring.registry import Scorer
    from strop.strategies.kit.capabilities import Capabilities
    from strop.strategies.kit.context import Perform
    from strop.strategies.kit.ops import Score, Scored
    from strop.strategies.kit.span import Span

Pairs = Iterable[tuple[float, bool]]
"""Logged values with what turned out to be true."""

Key = tuple[str, str]
"""Scorer and model."""

ROUNDS = 100
TOLERANCE = 1e-10
"""Newton stops when no part of the gradient is larger."""


@dataclass(frozen=True, slots=True)
class Running:
    """Count, mean and spread of values that came one by one (Welford). `squares` sums squared distances to the mean."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> Running:
        """One value more. Raises ValueError for one that is not finite."""
        if not isfinite(value):
            raise ValueError(f"{value} is no score")
        count = self.count + 1
        mean = self.mean + (value - self.mean) / count
        return Running(count, mean, self.squares + (value - self.mean) * (value - mean))

    @property
    def spread(self) -> float | None:
        """Standard deviation, of a sample; None for fewer than two values."""
        return sqrt(self.squares / (self.count - 1)) if self.count > 1 else None


@dataclass(frozen=True, slots=True)
class Platt:
    """P(correct) = 1 / (1 + exp(-(slope * value + offset)))."""

    slope: float
    offset: float

    def __call__(self, value: float) -> float:
        """The probability, in [0, 1]."""
        z = self.slope * value + self.offset
        return 1 / (1 + exp(-z)) if z >= 0 else exp(z) / (1 + exp(z))


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is known of one scorer on one model; `platt` is None until there are labels."""

    values: Running = Running()
    platt: Platt | None = None

    def seen(self, value: float) -> Calibration:
        """After one more value."""
        return replace(self, values=self.values.add(value))

    def fitted(self, pairs: Pairs) -> Calibration:
        """With Platt's parameters from labelled values; see `fit`."""
        return replace(self, platt=fit(pairs))


Table = Mapping[Key, Calibration]


def fit(pairs: Pairs) -> Platt:
    """Platt's parameters by Newton's method, with step halving (Lin, Lin and Weng 2007).

    The targets are Platt's: (right + 1) / (right + 2) and 1 / (wrong + 2) instead of 1 and 0, so values that divide the
    labels perfectly have a finite slope. Raises ValueError unless there are both labels and all values are finite.
    """
    known = list(pairs)
    right = sum(label for _, label in known)
    wrong = len(known) - right
    if not right or not wrong:
        raise ValueError(f"calibration needs right and wrong answers; there are {right} and {wrong}")
    if not all(isfinite(value) for value, _ in known):
        raise ValueError("a value is not finite")
    high, low = (right + 1) / (right + 2), 1 / (wrong + 2)
    points = [(value, high if label else low) for value, label in known]
    at = Platt(0.0, log((right + 1) / (wrong + 1)))
    if len({value for value, _ in points}) == 1:
        share = fsum(target for _, target in points) / len(points)
        return Platt(0.0, log(share / (1 - share)))
    for _ in range(ROUNDS):
        step = _step(at, points)
        if step is None:
            break
        at = _halved(at, step, points)
    return at


def _step(at: Platt, points: list[tuple[float, float]]) -> Platt | None:
    """Newton's step; None at the minimum."""
    errors = [(value, at(value) - target, at(value) * (1 - at(value))) for value, target in points]
    by_slope = fsum(error * value for value, error, _ in errors)
    by_offset = fsum(error for _, error, _ in errors)
    if max(abs(by_slope), abs(by_offset)) < TOLERANCE:
        return None
    ss = fsum(weight * value * value for value, _, weight in errors) + 1e-12
    so = fsum(weight * value for value, _, weight in errors)
    oo = fsum(weight for _, _, weight in errors) + 1e-12
    det = ss * oo - so * so
    return Platt((so * by_offset - oo * by_slope) / det, (so * by_slope - ss * by_offset) / det)


def _halved(at: Platt, step: Platt, points: list[tuple[float, float]]) -> Platt:
    """The farthest point along the step, halved as often as needed, that is no worse."""
    before, size = _loss(at, points), 1.0
    while size > 1e-10:
        tried = Platt(at.slope + size * step.slope, at.offset + size * step.offset)
        if _loss(tried, points) <= before:
            return tried
        size /= 2
    return at


def _loss(at: Platt, points: list[tuple[float, float]]) -> float:
    """Cross entropy of the targets, in nats."""
    logits = [(at.slope * value + at.offset, target) for value, target in points]
    return fsum(max(z, 0) - target * z + log1p(exp(-abs(z))) for z, target in logits)


def calibrated(scorer: Scorer, calibration: Calibration) -> Scorer:
    """The scorer with P(correct) for its values; what it could not tell stays None.

    Raises ValueError when there are no Platt parameters.
    """
    platt = calibration.platt
    if platt is None:
        raise ValueError("this calibration has no labels yet")
    inner: Callable[..., Awaitable[Scored]] = scorer

    async def score(op: Score, span: Span, below: Perform, can: Capabilities) -> Scored:
        scored = await inner(op, span, below, can)
        return replace(scored, values=tuple(None if value is None else platt(value) for value in scored.values))

    return score


def dumps(table: Table) -> str:
    """A table as JSON, in the order of its keys; floats survive exactly."""
    rows = [{"scorer": scorer, "model": model, **asdict(table[scorer, model])} for scorer, model in sorted(table)]
    return json.dumps({"version": 1, "calibrations": rows}, indent=1)


def loads(text: str) -> dict[Key, Calibration]:
    """The table that `dumps` wrote. Raises ValueError for anything else."""
    try:
        data: dict[str, Any] = json.loads(text)
        if data["version"] != 1:
            raise ValueError(f"version {data['version']} is not known")
        return {(row["scorer"], row["model"]): _read(row) for row in data["calibrations"]}
    except (KeyError, TypeError) as wrong:
        raise ValueError(f"not a table of calibrations: {wrong!r}") from wrong


def _read(row: Mapping[str, Any]) -> Calibration:
    return Calibration(Running(**row["values"]), Platt(**row["platt"]) if row["platt"] else None)
