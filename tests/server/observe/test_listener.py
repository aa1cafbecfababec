"""What single runs add to the histograms: overhead, scores, cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.server.observe.listener import outside
from strop.strategies.kit import Chat
from strop.strategies.kit.events import Bill, Finished, OpDone, Outcome, Started
from strop.strategies.kit.ops import Generate, Score, Scored
from strop.strategies.kit.types import Draft


def op(at: float, seconds: float) -> OpDone:
    return OpDone("run#1", Generate(Chat()), error="cancelled", at=at, seconds=seconds)


def finished(seconds: float = 1.0, *answers: Draft, usd: float | None = None) -> Finished:
    return Finished(Outcome(answers, "done", bill=Bill(seconds=seconds, usd=usd)))


def play(page: Any, ask: Any, *events: Any) -> None:
    observer = page.metrics.observer(ask)
    for event in (Started("direct", {}, Chat()), *events):
        observer(event)


def test_overhead_counts_only_the_time_in_which_nothing_worked_on_the_request(page: Any, asking: Any) -> None:
    # 0.1 before, 0.2..0.6 covered by two overlapping ops (one inside the other), a gap, 0.7..0.9, 0.1 after.
    play(page, asking(), op(0.2, 0.4), op(0.3, 0.1), op(0.1, 0.3), op(0.7, 0.2), finished(1.0))
    assert page.value("strop_overhead_seconds_sum") == pytest.approx(0.1 + 0.1 + 0.1)
    assert page.value("strop_overhead_seconds_bucket", le="0.25") == 0
    assert page.value("strop_overhead_seconds_bucket", le="1.0") == 1


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=12),
    st.integers(0, 50),
)
def test_overhead_agrees_with_counting_ticks(ops: list[tuple[int, int]], length: int) -> None:
    busy = {tick for start, seconds in ops for tick in range(start, start + seconds)}
    expected = sum(tick not in busy for tick in range(length))
    assert outside([(float(a), float(a + b)) for a, b in ops], float(length)) == pytest.approx(expected)


def test_scores_are_counted_apart_for_the_served_and_the_other_candidates(page: Any, asking: Any) -> None:
    drafts = tuple(Draft(f"{i}", span=f"run#1[{i}]") for i in range(3))
    scored = OpDone("run#2", Score(Chat(), drafts), Scored((0.2, None, 0.9)))
    play(page, asking(), scored, finished(1.0, drafts[2]))
    assert page.value("strop_candidate_score_sum", selected="true", scorer="judge") == pytest.approx(0.9)
    assert page.value("strop_candidate_score_sum", selected="false") == pytest.approx(0.2)
    assert page.value("strop_candidate_score_count") == 2


def test_cost_is_counted_by_tenant_and_a_run_without_a_price_is_not_free(page: Any, asking: Any) -> None:
    play(page, asking(tenant="acme"), finished(usd=0.25))
    play(page, asking(tenant="acme"), finished(usd=None))
    assert page.value("strop_cost_usd_total", tenant="acme") == 0.25
    assert page.value("strop_unpriced_requests_total", tenant="acme") == 1


def test_a_running_request_is_in_flight(page: Any, asking: Any) -> None:
    observer = page.metrics.observer(asking())
    assert page.value("strop_requests_in_flight") == 0
    observer(Started("direct", {}, Chat()))
    assert page.value("strop_requests_in_flight", strategy="direct") == 1
    observer(finished())
    assert page.value("strop_requests_in_flight") == 0


def test_a_degraded_answer_is_counted_by_how(page: Any, asking: Any) -> None:
    play(page, asking(), Finished(Outcome((Draft("x"),), "deadline", degraded="kept")))
    assert page.value("strop_degraded_answers_total", how="kept") == 1


def test_a_retry_of_the_client_is_counted(page: Any, asking: Any) -> None:
    page.metrics.observer(asking())
    page.metrics.observer(asking(retry=2))
    assert page.value("strop_client_retries_total") == 1
