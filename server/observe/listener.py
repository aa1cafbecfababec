"""What one request adds to the metrics, read off the events of its run.

Nothing is counted before the run is over, so the counters are sums of bills: for every finished, cut, cancelled or
failed run, `completion + refinement + judge` is the bill's generated tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter

from prometheus_client import Counter, Gauge, Histogram

from strop.server.observe.series import Series
from strop.server.observe.vocabulary import Vocabulary
from strop.strategies.kit.events import Bill, Event, Finished, OpDone, Outcome, Started
from strop.strategies.kit.ops import Generate, Op, Score, Scored

POLICY = "policy"
MAX_EXEMPLAR = 100


@dataclass(frozen=True, slots=True)
class Row:
    """The series of one (model, strategy, tenant), looked up once."""

    model: str
    strategy: str
    tenant: str
    series: Series
    duration: Histogram
    first_event: Histogram
    first_token: Histogram
    retries: Counter
    in_flight: Gauge
    queue: Histogram
    overhead: Histogram
    calls: Histogram
    gpu: Counter
    tokens: dict[str, Counter]

    @classmethod
    def of(cls, series: Series, model: str, strategy: str, tenant: str) -> Row:
        """The row of these (bounded) label values."""
        who = (model, strategy)
        return cls(
            model,
            strategy,
            tenant,
            series,
            duration=series.duration.labels(*who),
            first_event=series.first_event.labels(*who),
            first_token=series.first_token.labels(*who),
            retries=series.retries.labels(strategy),
            in_flight=series.in_flight.labels(strategy),
            queue=series.queue.labels(strategy),
            overhead=series.overhead.labels(strategy),
            calls=series.calls.labels(*who),
            gpu=series.gpu.labels(*who),
            tokens={kind: series.tokens.labels(*who, kind) for kind in TOKEN_TYPES},
        )


TOKEN_TYPES = ("prompt", "prompt_cached", "injected", "completion", "refinement", "judge")


def split_tokens(bill: Bill, judged: int) -> dict[str, int]:
    """The bill's tokens by type. `judged` are the tokens that scorers, verifiers and judges generated.

    `prompt` is every prompt token, and `prompt_cached` and `injected` are parts of it. The other three are disjoint:
    `completion` was served, `judge` and `refinement` were not, and their sum is `bill.total.completion`.
    """
    judge = min(judged, bill.discarded)
    return {
        "prompt": bill.total.prompt,
        "prompt_cached": bill.total.cached,
        "injected": bill.total.injected,
        "completion": bill.total.completion - bill.discarded,
        "refinement": bill.discarded - judge,
        "judge": judge,
    }


def outside(intervals: Iterable[tuple[float, float]], seconds: float) -> float:
    """Seconds of [0, seconds] that no (start, end) interval covers."""
    covered, reached = 0.0, 0.0
    for start, end in sorted(intervals):
        begin, stop = max(start, reached), min(end, seconds)
        if stop > begin:
            covered += stop - begin
            reached = stop
    return max(0.0, seconds - covered)


def exemplar(trace_id: str) -> dict[str, str] | None:
    """The exemplar of a request; none when its id is too long for OpenMetrics."""
    return {"trace_id": trace_id} if 0 < len(trace_id) <= MAX_EXEMPLAR and trace_id.isascii() else None


class Listener:
    """Collects one run's events and adds them to the series when it is over."""

    __slots__ = ("_asked", "_id", "_intervals", "_judged", "_phases", "_row", "_scorers", "_scores")

    def __init__(self, row: Row, phases: Vocabulary, scorers: Vocabulary, trace_id: str) -> None:
        self._row = row
        self._phases = phases
        self._scorers = scorers
        self._id = trace_id
        self._asked = perf_counter()
        self._intervals: list[tuple[float, float]] = []
        self._scores: list[tuple[str, str, float]] = []
        self._judged = 0

    def __call__(self, event: Event) -> None:
        kind = type(event)
        if kind is OpDone:
            self._op(event)  # type: ignore[arg-type]
        elif kind is Started:
            self._row.queue.observe(perf_counter() - self._asked)
            self._row.in_flight.inc()
        elif kind is Finished:
            self._row.in_flight.dec()
            self._finish(event.outcome)  # type: ignore[union-attr]

    def _op(self, done: OpDone) -> None:
        self._intervals.append((done.at, done.at + done.seconds))
        if _judges(done.op):
            self._judged += done.usage.completion
        if isinstance(done.op, Score) and isinstance(done.result, Scored):
            scorer = self._scorers(done.op.by)
            pairs = zip(done.op.drafts, done.result.values, strict=False)
            # A histogram's sum may only grow, so scores that can be negative (log-likelihoods) are left out.
            self._scores += [(scorer, draft.span, value) for draft, value in pairs if value is not None and value >= 0]

    def _finish(self, outcome: Outcome) -> None:
        row, bill = self._row, outcome.bill
        row.overhead.observe(outside(self._intervals, bill.seconds), exemplar(self._id))
        row.calls.observe(bill.total.calls)
        row.gpu.inc(bill.total.seconds)
        for kind, count in split_tokens(bill, self._judged).items():
            if count:
                row.tokens[kind].inc(count)
        self._finish_rare(outcome)

    def _finish_rare(self, outcome: Outcome) -> None:
        """Series whose labels depend on the run."""
        row, series, bill = self._row, self._row.series, outcome.bill
        series.stops.labels(row.strategy, outcome.stopped).inc()
        if outcome.degraded is not None:
            series.degraded.labels(row.strategy, outcome.degraded).inc()
        if bill.usd is None:
            series.unpriced.labels(row.tenant, row.strategy).inc()
        else:
            series.cost.labels(row.tenant, row.strategy).inc(bill.usd)
        for phase, usage in bill.phases.items():
            if usage.completion:
                series.phases.labels(row.strategy, self._phases(phase)).inc(usage.completion)
        served = {answer.span for answer in outcome.answers}
        found = {(scorer, span in served) for scorer, span, _ in self._scores}
        cells = {(scorer, won): series.scores.labels(row.strategy, scorer, str(won).lower()) for scorer, won in found}
        for scorer, span, value in self._scores:
            cells[scorer, span in served].observe(value, exemplar(self._id))


def _judges(op: Op) -> bool:
    return not isinstance(op, Generate) or op.model == "judge"
