"""Replayed: a recorded run instead of a model. Any log of a request is a test."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import anyio

from strop.strategies import CATALOGUE
from strop.strategies.kit import errors
from strop.strategies.kit.budget import Price, no_price
from strop.strategies.kit.errors import DeadlinePassed, EngineError, ReplayMismatch
from strop.strategies.kit.events import Finished, OpDone, Outcome, Started
from strop.strategies.kit.ops import Generate, Generated, Op, Result
from strop.strategies.kit.run import Request, run
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.strategy import Strategy, find
from strop.strategies.kit.trace import Line, Trace, difference
from strop.strategies.kit.types import Draft, Usage


class Replayed:
    """A `Perform` that answers every op with its recorded result, found by the span's key.

    The finish order does not matter (`jitter` delays every answer by up to that many seconds, to show it). An op that
    differs from the recorded one, or was never recorded, raises `ReplayMismatch` naming the first differing field. An
    op recorded with an error raises `EngineError` again; one recorded as cancelled waits until it is cancelled, and
    costs what it had cost. Words recorded under a live span are sent live.
    """

    def __init__(self, lines: Iterable[Line], *, jitter: float = 0.0, seed: int = 0) -> None:
        recorded = list(lines)
        self._ops = {line.key: line for line in recorded if isinstance(line, OpDone)}
        self._unasked = set(self._ops)
        self._ended = next((line.outcome for line in recorded if isinstance(line, Finished)), None)
        self._deadline = next((line.budget.seconds for line in recorded if isinstance(line, Started)), None)
        self._waiting = self._delayed = 0
        self._answered = 0
        self._stuck = anyio.Event()
        self._jitter = jitter
        self._random = random.Random(seed)
        self.client_leaves: Callable[[], None] = _nobody_leaves

    def assert_all_used(self) -> None:
        """Fail if a recorded op was never asked for."""
        if self._unasked:
            raise ReplayMismatch(f"recorded but never asked for: {', '.join(sorted(self._unasked))}")

    async def __call__(self, op: Op, span: Span) -> Result:
        line = self._find(op, span)
        self._unasked.discard(span.key)
        span.receipt.own = line.usage
        self._delayed += 1
        try:
            await anyio.sleep(self._random.random() * self._jitter)
        finally:
            self._delayed -= 1
        if line.error == "cancelled":
            await self._wait(op, span)
        self._answered += 1
        self._notice()
        if line.result is None:
            raise _failure(line.error or "")
        if isinstance(line.result, Generated):
            _send(op, line.result.drafts, span)
        return line.result

    def _find(self, op: Op, span: Span) -> OpDone:
        line = self._ops.get(span.key)
        if line is None:
            known = ", ".join(self._ops) or "none"
            raise ReplayMismatch(f"nothing was recorded at {span.key}, where '{op.tag}' is asked; recorded: {known}")
        differs = difference(line.op, op)
        if differs:
            where, recorded, asked = differs
            raise ReplayMismatch(f"{span.key}: {where} was {recorded!r} when recorded and is {asked!r} now")
        return line

    async def _wait(self, op: Op, span: Span) -> None:
        """Until cancelled. When the whole recorded run ended here, end this one for the same reason."""
        left = self._ended.answers if self._ended and self._ended.degraded == "partial" else ()
        span.receipt.partials = lambda: left
        _send(op, left, span)
        self._waiting += 1
        try:
            self._notice()
            await self._stuck.wait()
            if self._ended is not None and self._ended.stopped == "deadline":
                raise DeadlinePassed(self._deadline or 0.0)
            self.client_leaves()
            await anyio.sleep_forever()
        finally:
            self._waiting -= 1

    def _notice(self) -> None:
        """Everything that ever finished has, and what is left waits: what ended the recorded run comes next."""
        finished = sum(line.error != "cancelled" for line in self._ops.values())
        over = self._ended is not None and self._ended.stopped in ("deadline", "gone")
        if over and self._waiting and not self._unasked and not self._delayed and self._answered == finished:
            self._stuck.set()


def _nobody_leaves() -> None:
    return


AGAIN = (errors.EngineError, errors.EngineOverloaded, errors.EngineUnavailable, errors.ScorerError, errors.BadRequest)


def _failure(recorded: str) -> Exception:
    """The recorded error as an exception; one of a kind that is not in `AGAIN` comes back as its nearest parent."""
    name, _, message = recorded.partition(": ")
    kind = getattr(errors, name, EngineError)
    return next((parent(message) for parent in kind.__mro__ if parent in AGAIN), EngineError(recorded))


def _send(op: Op, drafts: Sequence[Draft], span: Span) -> None:
    if span.live is None or not isinstance(op, Generate):
        return
    known = op.prefix.draft.text + op.prefix.inject if op.prefix else ""
    for index, draft in enumerate(drafts):
        span.live(Delta(draft.text.removeprefix(known), index))


async def replay(
    lines: Iterable[Line],
    known: Mapping[str, Strategy] = CATALOGUE,
    *,
    price: Price = no_price,
    jitter: float = 0.0,
    seed: int = 0,
) -> Outcome:
    """Run a recorded request again, without a model, and check that it ends the same way.

    Everything must agree but wall times and money (prices are not part of a trace; pass `price` for a run that ended
    for want of money). Raises `ReplayMismatch` naming the first difference, be it of an op, an op that is no longer
    asked for, or the outcome.
    """
    recorded = list(lines)
    started = next((line for line in recorded if isinstance(line, Started)), None)
    finished = next((line for line in recorded if isinstance(line, Finished)), None)
    if started is None or finished is None:
        raise ReplayMismatch("a recording needs its first line (started) and its last (finished)")
    request = Request(
        strategy=find(known, started.strategy),
        question=started.question,
        knobs=started.knobs,
        budget=replace(started.budget, seconds=None),
        seed=started.seed,
        choices=started.choices,
        fence=started.fence,
    )
    engine, trace = Replayed(recorded, jitter=jitter, seed=seed), Trace()
    with anyio.CancelScope() as scope:
        engine.client_leaves = scope.cancel
        try:
            await run(request, engine, observe=[trace], price=price)
        except ReplayMismatch:
            raise
        except Exception:
            if finished.outcome.answers or finished.outcome.error is None:
                raise
    again = next(line.outcome for line in trace.lines if isinstance(line, Finished))
    if again.error and again.error.startswith("ReplayMismatch"):
        raise ReplayMismatch(again.error.removeprefix("ReplayMismatch: "))
    engine.assert_all_used()
    if (differs := _outcomes_differ(finished.outcome, again)) is not None:
        raise ReplayMismatch(differs)
    return again


def _outcomes_differ(recorded: Outcome, now: Outcome) -> str | None:
    a, b = _timeless(recorded), _timeless(now)
    for name in ("error", "stopped", "degraded", "answers", "bill"):
        was, is_now = getattr(a, name), getattr(b, name)
        if was != is_now:
            return f"outcome.{name} was {was!r} when recorded and is {is_now!r} now"
    return None


def _timeless(outcome: Outcome) -> Outcome:
    def still(usage: Usage) -> Usage:
        return replace(usage, seconds=0.0)

    bill = outcome.bill
    phases = {tag: still(usage) for tag, usage in bill.phases.items()}
    message = outcome.error and outcome.error.partition(": ")[2]
    bill = replace(bill, total=still(bill.total), phases=phases, seconds=0.0, usd=None)
    return replace(outcome, error=message, bill=bill)
