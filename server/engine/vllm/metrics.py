"""vLLM's own metrics, one registry per engine, and the totals that bills are checked against.

vLLM registers its series in prometheus_client's global registry and throws out those of every engine before. Here
each engine gets a registry of its own, so that several engines, and one that was rebuilt, keep their series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

KINDS = {"_gauge_cls": Gauge, "_counter_cls": Counter, "_histogram_cls": Histogram}
PARTS = ("_spec_decoding_cls", "_kv_connector_cls", "_ec_connector_cls", "_perf_metrics_cls")


@dataclass(slots=True)
class Totals:
    """What vLLM itself counted since the first boot, over all engines that served in turn."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    running: int = 0
    waiting: int = 0

    def record(self, scheduler: Any, iteration: Any) -> None:
        """Take vLLM's SchedulerStats and IterationStats of one step; either may be None."""
        if scheduler is not None:
            self.running = scheduler.num_running_reqs
            self.waiting = scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs
        if iteration is not None:
            self.prompt += iteration.num_prompt_tokens
            self.cached += iteration.prompt_token_stats.cached_tokens
            self.completion += iteration.num_generation_tokens


class Series(Collector):
    """All `vllm:*` families of one engine, for strop's registry; empty while nothing is loaded."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry | None = None

    def collect(self) -> Iterator[Metric]:
        """The families of the engine that serves now."""
        if self.registry is not None:
            yield from self.registry.collect()


class Merged(Collector):
    """Several collectors as one page: families of the same name become one family with all samples."""

    def __init__(self, parts: Iterable[Collector]) -> None:
        self._parts = tuple(parts)

    def collect(self) -> Iterator[Metric]:
        """Every family once."""
        families: dict[str, Metric] = {}
        for part in self._parts:
            for family in part.collect():
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)
        yield from families.values()


def stat_loggers(registry: CollectorRegistry, totals: Totals) -> list[Any]:
    """Factories for `AsyncLLM(stat_loggers=...)`: vLLM's series into `registry`, its counts into `totals`."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    kinds = {name: partial(kind, registry=registry) for name, kind in KINDS.items()}
    parts: dict[str, Any] = {}
    for name in PARTS:
        part = getattr(PrometheusStatLogger, name, None)
        own = {kind: staticmethod(made) for kind, made in kinds.items() if hasattr(part, kind)}
        if isinstance(part, type) and own:
            parts[name] = type(part.__name__, (part,), own)

    def record(
        self: Any, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        totals.record(scheduler_stats, iteration_stats)
        PrometheusStatLogger.record(self, scheduler_stats, iteration_stats, mm_cache_stats, engine_idx)

    made = {**{kind: staticmethod(maker) for kind, maker in kinds.items()}, **parts, "record": record}
    return [type("StropStatLogger", (PrometheusStatLogger,), made)]
