"""Series that are read from their owners when Prometheus asks: engines, the queue and the trace log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from strop.server.engine.base import Counters, Engine, Health


class Queue(Protocol):
    """Where requests wait for admission."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        ...


class Log(Protocol):
    """A sink of records."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Records by result."""
        ...


class Watched(Protocol):
    """The parts of the service that count things themselves."""

    @property
    def engines(self) -> Mapping[str, Engine]:
        """Role to engine."""
        ...

    @property
    def admission(self) -> Queue:
        """The queue in front of the engines."""
        ...

    @property
    def trace_log(self) -> Log:
        """The JSONL log."""
        ...


class Sources(Collector):
    """A collector over a service; before it has one, the families are there without samples."""

    service: Watched | None = None

    def collect(self) -> Iterator[Metric]:
        """Every family, read now."""
        yield from _engines({} if self.service is None else self.service.engines)
        waiting = GaugeMetricFamily("strop_queue_waiting", "Requests waiting for admission.")
        records = CounterMetricFamily("strop_log_records", "Records by sink and result.", labels=("sink", "result"))
        if self.service is not None:
            waiting.add_metric((), self.service.admission.waiting)
            for result, count in self.service.trace_log.counts.items():
                records.add_metric(("jsonl", result), count)
        yield waiting
        yield records


def _engines(engines: Mapping[str, Engine]) -> Iterator[Metric]:
    counted: dict[str, Counters] = {role: engine.counters() for role, engine in engines.items()}
    healths: dict[str, Health] = {role: engine.health() for role, engine in engines.items()}
    for field, name, text in (
        ("prompt", "prompt_tokens", "Prompt tokens that the engine was given."),
        ("cached", "prompt_cached_tokens", "Prompt tokens that the engine read from its prefix cache."),
        ("completion", "completion_tokens", "Tokens that the engine generated."),
        ("calls", "calls", "Generations that the engine started."),
    ):
        counter = CounterMetricFamily(f"strop_engine_{name}", text, labels=("role",))
        for role, counters in counted.items():
            counter.add_metric((role,), getattr(counters, field))
        yield counter
    for field, text in (
        ("running", "Generations being decoded now."),
        ("waiting", "Generations waiting inside the engine."),
    ):
        gauge = GaugeMetricFamily(f"strop_engine_{field}", text, labels=("role",))
        for role, counters in counted.items():
            gauge.add_metric((role,), getattr(counters, field))
        yield gauge
    ready = GaugeMetricFamily("strop_engine_ready", "1 when the engine would answer now, else 0.", labels=("role",))
    for role, health in healths.items():
        ready.add_metric((role,), int(health.ready))
    yield ready
