"""Prometheus metrics of the server: `Metrics` owns the registry, listens to runs and answers `/metrics`.

The HTTP layer calls `finished` once per request, whatever became of it, and `first_event` / `first_token` for
streams. Everything about the run itself is read off its events by the listener that `observer(ask)` returns.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from strop.server.observe.listener import Listener, Row, exemplar
from strop.server.observe.series import Series
from strop.server.observe.sources import Sources, Watched
from strop.server.observe.vocabulary import NONE, Vocabulary
from strop.strategies.kit.events import Observer

if TYPE_CHECKING:
    from strop.server.service import Ask

BUDGET_CODES = frozenset({"budget_exceeded", "price_unknown", "insufficient_quota", "rate_limit_exceeded"})


class Metrics:
    """The metrics of one server. Bounded labels: see `Vocabulary`; `declare` narrows them to what is configured."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.series = Series(registry)
        self._models = Vocabulary(128)
        self._tenants = Vocabulary(256)
        self._phases = Vocabulary(64)
        self._scorers = Vocabulary(32)
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._sources = Sources()
        registry.register(self._sources)
        build = Gauge("strop_build_info", "Version of strop and Python.", ("version", "python"), registry=registry)
        build.labels(version("strop"), platform.python_version()).set(1)

    def declare(self, *, models: Iterable[str] = (), tenants: Iterable[str] = ()) -> None:
        """Count only these model ids and tenants by name; every other one is "other"."""
        self._models = Vocabulary(0, models)
        self._tenants = Vocabulary(0, tenants)

    def watch(self, service: Watched) -> None:
        """Also expose what the service's engines, queue and trace log count; calling it again replaces the service."""
        self._sources.service = service

    def observer(self, ask: Ask) -> Observer:
        """A listener to the events of one request. It never raises and does no I/O."""
        row = self._row(ask)
        if ask.retry > 0:
            row.retries.inc()
        return Listener(row, self._phases, self._scorers, ask.id)

    def finished(self, ask: Ask | None, status: int, seconds: float, code: str | None = None) -> None:
        """A request was answered with HTTP `status` after `seconds` since it arrived.

        `ask` is None when it was refused before it was understood; `code` is the code of the error body, if any.
        A client that left counts as 499.
        """
        who = (NONE, NONE)
        if ask is not None:
            row = self._row(ask)
            row.duration.observe(seconds, exemplar(ask.id))
            who = (row.model, row.strategy)
        self.series.requests.labels(*who, str(status)).inc()
        if code in BUDGET_CODES:
            self.series.budget_rejections.labels(code).inc()

    def first_event(self, ask: Ask, seconds: float) -> None:
        """The first byte of a stream left after `seconds`."""
        self._row(ask).first_event.observe(seconds, exemplar(ask.id))

    def first_token(self, ask: Ask, seconds: float) -> None:
        """The first word of the answer left after `seconds`."""
        self._row(ask).first_token.observe(seconds, exemplar(ask.id))

    def exposition(self, accept: str | None) -> tuple[bytes, str]:
        """(body, content type) of `/metrics`: OpenMetrics with exemplars when `accept` asks for it, else plain text."""
        encode, content_type = choose_encoder(accept or "")
        return encode(_WithoutCreated(self.registry)), content_type

    def _row(self, ask: Ask) -> Row:
        key = (self._models(ask.model), ask.selection.strategy.name, self._tenants(ask.principal.tenant))
        if key not in self._rows:
            self._rows[key] = Row.of(self.series, *key)
        return self._rows[key]


class _WithoutCreated(Collector):
    """A registry without the `_created` samples, which would add a series to every counter and histogram."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
