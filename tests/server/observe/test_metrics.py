"""The metrics page: valid, bounded, and what the HTTP layer reports to it."""

from __future__ import annotations

import re
import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from strop.server.engine.base import Counters, Health
from strop.server.observe.vocabulary import Vocabulary
from strop.strategies.kit import Chat
from strop.strategies.kit.events import Bill, Finished, OpDone, Outcome, Started
from strop.strategies.kit.ops import Score, Scored
from strop.strategies.kit.types import Draft, Usage

OPENMETRICS = "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"


class EngineDouble:
    def __init__(self, ready: bool = True) -> None:
        self.ready = ready

    def counters(self) -> Counters:
        return Counters(prompt=100, cached=40, completion=30, calls=3, running=2, waiting=1)

    def health(self) -> Health:
        return Health(self.ready)


def service(**engines: Any) -> Any:
    return SimpleNamespace(
        engines=engines,
        admission=SimpleNamespace(waiting=7),
        trace_log=SimpleNamespace(counts={"written": 5, "dropped": 1, "failed": 0}),
    )


def fill(page: Any, ask: Any) -> None:
    """Every series gets a sample."""
    metrics = page.metrics
    metrics.watch(service(policy=EngineDouble(), judge=EngineDouble(ready=False)))
    observer = metrics.observer(ask)
    draft = Draft("4", span="direct#1[0]")
    bill = Bill(Usage(10, 4, 20, 1, 2, 0.5), {"draft": Usage(completion=20)}, 8, 0.6, 0.001)
    observer(Started("direct", {}, Chat()))
    observer(OpDone("direct#2", Score(Chat(), (draft,)), Scored((0.5,)), usage=Usage(completion=3), seconds=0.1))
    observer(Finished(Outcome((draft,), "budget", "kept", bill=bill)))
    observer(Finished(Outcome((), "done")))  # a run without a price
    metrics.first_event(ask, 0.1)
    metrics.first_token(ask, 0.2)
    metrics.finished(ask, 200, 0.6)
    metrics.finished(None, 429, 0.01, "rate_limit_exceeded")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_has_nothing_to_say_about_the_page(page: Any, asking: Any) -> None:
    fill(page, asking(retry=1))
    body, _ = page.metrics.exposition(None)
    done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_every_family_has_a_help_text_and_a_sample_after_some_traffic(page: Any, asking: Any) -> None:
    fill(page, asking(retry=1))
    families = list(page.metrics.registry.collect())
    assert [f.name for f in families if not f.documentation.endswith(".") and "everything" not in f.documentation] == []
    assert [f.name for f in families if not f.samples] == []


def test_a_plain_scrape_has_no_exemplars_and_no_created_series(page: Any, asking: Any) -> None:
    fill(page, asking())
    body, kind = page.metrics.exposition("text/plain")
    assert kind.startswith("text/plain; version=0.0.4")
    assert b"trace_id" not in body
    assert b"_created" not in body


def test_an_openmetrics_scrape_has_the_request_as_exemplar(page: Any, asking: Any) -> None:
    fill(page, asking(id="chatcmpl-abc"))
    body, kind = page.metrics.exposition(OPENMETRICS)
    assert kind.startswith("application/openmetrics-text")
    families = list(text_string_to_metric_families(body.decode()))
    found = {
        f.name for f in families for s in f.samples if s.exemplar and s.exemplar.labels["trace_id"] == "chatcmpl-abc"
    }
    assert found >= {
        "strop_request_duration_seconds",
        "strop_time_to_first_token_seconds",
        "strop_overhead_seconds",
        "strop_candidate_score",
    }


@pytest.mark.parametrize("request_id", ["x" * 129, "ü" * 20, ""])
def test_an_id_that_openmetrics_forbids_leaves_no_exemplar_and_does_no_harm(
    page: Any, asking: Any, request_id: str
) -> None:
    fill(page, asking(id=request_id))
    body, _ = page.metrics.exposition(OPENMETRICS)
    assert b"trace_id" not in body
    assert page.value("strop_requests_total", status="200") == 1


def test_requests_are_counted_by_model_strategy_and_status(page: Any, asking: Any) -> None:
    page.metrics.finished(asking(model="tiny:best"), 200, 1.5)
    page.metrics.finished(asking(model="tiny:best"), 499, 0.5)
    page.metrics.finished(None, 401, 0.001)
    assert page.value("strop_requests_total", model_name="tiny:best", strategy="direct", status="200") == 1
    assert page.value("strop_requests_total", status="499") == 1
    assert page.value("strop_requests_total", model_name="none", strategy="none", status="401") == 1
    assert page.value("strop_request_duration_seconds_sum", model_name="tiny:best") == pytest.approx(2.0)


def test_refusals_for_want_of_budget_are_counted_by_code_and_others_are_not(page: Any, asking: Any) -> None:
    page.metrics.finished(asking(), 400, 0.1, "budget_exceeded")
    page.metrics.finished(None, 429, 0.1, "rate_limit_exceeded")
    page.metrics.finished(None, 400, 0.1, "invalid_value")
    page.metrics.finished(asking(), 400, 0.1, "code of a stranger")
    assert page.labels("strop_budget_rejections_total", "code") == {"budget_exceeded", "rate_limit_exceeded"}


def test_whatever_clients_send_the_number_of_series_is_bounded(page: Any, asking: Any) -> None:
    for i in range(2000):
        ask = asking(model=f"model-{i}", tenant=f"tenant-{i}", id=f"chatcmpl-{i}")
        observer = page.metrics.observer(ask)
        phases = {f"phase-{i}": Usage(completion=1)}
        observer(Started("direct", {}, Chat()))
        observer(OpDone("k", Score(Chat(), (Draft("x"),), by=f"scorer-{i}"), Scored((1.0,))))
        observer(Finished(Outcome((), "done", bill=Bill(Usage(completion=1), phases))))
        page.metrics.finished(ask, 200, 0.1)
    assert len(page.labels("strop_requests_total", "model_name")) <= 129
    assert len(page.labels("strop_unpriced_requests_total", "tenant")) <= 257
    assert len(page.labels("strop_phase_tokens_total", "phase")) <= 65
    assert len(page.labels("strop_candidate_score_count", "scorer")) <= 33
    assert page.value("strop_requests_total") == 2000
    assert page.value("strop_phase_tokens_total", phase="other") == 2000 - 64


def test_declared_models_and_tenants_are_the_only_ones_named(page: Any, asking: Any) -> None:
    page.metrics.declare(models=["tiny"], tenants=["acme"])
    for model, tenant in (("tiny", "acme"), ("huge", "nobody")):
        page.metrics.observer(asking(model=model, tenant=tenant))(Finished(Outcome((), "done")))
        page.metrics.finished(asking(model=model, tenant=tenant), 200, 0.1)
    assert page.labels("strop_requests_total", "model_name") == {"tiny", "other"}
    assert page.labels("strop_unpriced_requests_total", "tenant") == {"acme", "other"}


def test_a_vocabulary_keeps_what_it_has_met() -> None:
    words = Vocabulary(2, ["declared"])
    assert [words(w) for w in ("a", "declared", "b", "c", "a", "")] == ["a", "declared", "b", "other", "a", "none"]


def test_engines_queue_and_log_are_read_when_scraped(page: Any) -> None:
    page.metrics.watch(service(policy=EngineDouble(), judge=EngineDouble(ready=False)))
    assert page.value("strop_engine_prompt_tokens_total", role="policy") == 100
    assert page.value("strop_engine_completion_tokens_total") == 60
    assert page.value("strop_engine_ready", role="judge") == 0
    assert page.value("strop_queue_waiting") == 7
    assert page.value("strop_log_records_total", sink="jsonl", result="dropped") == 1


def test_latency_buckets_reach_beyond_ten_minutes(page: Any, asking: Any) -> None:
    page.metrics.finished(asking(), 200, 600.0)
    body, _ = page.metrics.exposition(None)
    bounds = re.findall(rb'strop_request_duration_seconds_bucket{le="([0-9.]+)"', body)
    assert float(bounds[-1]) == 640.0
    assert page.value("strop_request_duration_seconds_bucket", le="640.0") == 1
