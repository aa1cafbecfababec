"""What every strategy of the catalogue promises, whatever its knobs: budget, bill, timing, replay."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies import CATALOGUE
from strop.strategies.kit import Budget, Chat, Message, Request, Sampling, run
from strop.strategies.kit.errors import BudgetSpent
from strop.strategies.kit.events import Event, Finished, OpDone
from strop.strategies.kit.trace import Trace, read, to_json
from strop.strategies.kit.types import Usage
from strop.strategies.testing import Gated, Simulated, replay

KNOBS: dict[str, dict[str, Any]] = {
    "direct": {},
    "best_of_n": {"n": 5},
    "self_consistency": {"n": 10},
    "self_refine": {"rounds": 3},
    "id_sampling": {"first": 16, "growth": 1.5},
    "beam_search": {"n": 4, "width": 2},
    "particle_filter": {"n": 4},
    "dvts": {"n": 4, "width": 2},
    "first_finish": {"n": 3, "stretch": 16},
    "think_longer": {"waits": 2, "end": " gives"},
    "think_less": {"most": 16},
    "berry": {"n": 4},
    "mcts": {"iterations": 4, "width": 2, "rollout": 1},
    "ab_mcts": {"n": 6, "batch": 2},
    "deepconf": {"n": 5, "top": 3, "warmup": 2, "window": 16, "online": True},
    "speculative_rejection": {"n": 6, "first": 16},
    "adaptive": {"n": 10},
    "ioe": {},
    "checklist": {"n": 3, "rounds": 2},
    "tear": {},
    "self_check": {"n": 4},
    "backtrack": {"n": 3, "rounds": 2},
    "verify_revise": {"by": "tests", "rounds": 3},
    "critic_actor": {"n": 3, "rounds": 2},
    "evolve_chain": {"length": 3},
    "self_polish": {"rounds": 2},
    "magicore": {"n": 3, "unsure": 0.0, "low": 1.0},
    "art": {},
    "debate": {"rounds": 2},
    "abstain": {"n": 2, "by": "judge"},
    "recombine": {"n": 3},
    "self_contrast": {"approaches": 3},
}
JUDGED = {
    "best_of_n": 5,
    "self_refine": 1,
    "adaptive": 4,
    "ioe": 1,
    "ab_mcts": 2,
    "speculative_rejection": 6,
    "tear": 1,
    "critic_actor": 3,
    "evolve_chain": 3,
    "self_polish": 1,
    "magicore": 3,
    "art": 1,
    "debate": 1,
    "abstain": 1,
    "recombine": 1,
    "self_contrast": 1,
}
"""Judgements in one scoring op. A scorer is asked for all drafts at once, so its last op may exceed the budget."""


def question(**sampling: Any) -> Chat:
    return Chat((Message("user", "What is 20 + 22?"),), Sampling(**sampling))


def test_every_strategy_is_covered_here() -> None:
    assert set(KNOBS) == set(CATALOGUE)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(KNOBS)),
    tokens=st.none() | st.integers(1, 600),
    calls=st.none() | st.integers(1, 12),
    seed=st.integers(0, 2**31 - 1),
    length=st.integers(2, 200),
    choices=st.integers(1, 3),
    max_tokens=st.none() | st.integers(1, 300),
)
def test_never_over_budget_and_the_bill_is_what_the_engine_did(
    name: str, tokens: int | None, calls: int | None, seed: int, length: int, choices: int, max_tokens: int | None
) -> None:
    events: list[Event] = []
    request = Request(
        CATALOGUE[name],
        question(max_tokens=max_tokens),
        KNOBS[name],
        Budget(tokens, calls),
        seed=seed,
        choices=choices,
        fence="fence",
    )

    async def go() -> None:
        try:
            outcome = await run(request, Simulated(0.4, length=length, seed=seed), observe=[events.append])
        except BudgetSpent:
            return
        assert 1 <= len(outcome.answers) <= choices
        if max_tokens is not None:
            assert all(answer.n_tokens <= max_tokens for answer in outcome.answers)
        if tokens is None and calls is None:
            assert (outcome.stopped, len(outcome.answers)) == ("done", choices)

    anyio.run(go)
    finished = events[-1]
    assert isinstance(finished, Finished)
    bill = finished.outcome.bill
    over = choices * JUDGED.get(name, 0)
    assert tokens is None or bill.total.completion <= tokens + over
    assert calls is None or bill.total.calls <= calls + over
    assert bill.total == sum((e.usage for e in events if isinstance(e, OpDone)), Usage())
    assert bill.total == sum(bill.phases.values(), Usage())


@pytest.mark.parametrize("name", sorted(KNOBS))
async def test_the_outcome_does_not_depend_on_timing(serve: Any, jittered: Any, name: str) -> None:
    for budget in (Budget(), Budget(tokens=150)):
        runs = [
            await serve(name, jittered(Simulated(0.4, seed=1), i, 0.002), budget=budget, seed=9, **KNOBS[name])
            for i in range(8)
        ]
        assert len({(r.outcome.answers, r.outcome.stopped, r.outcome.degraded) for r in runs}) == 1


@pytest.mark.parametrize("name", sorted(KNOBS))
async def test_a_run_replays_from_its_trace(name: str) -> None:
    for choices in (1, 2):
        trace = Trace()
        request = Request(CATALOGUE[name], question(), KNOBS[name], seed=3, choices=choices, fence="fence")
        outcome = await run(request, Simulated(0.4), observe=[trace])
        again = await replay(read(to_json(line) for line in trace.lines), jitter=0.001)
        assert again.answers == outcome.answers


@pytest.mark.parametrize("name", sorted(KNOBS))
async def test_the_deadline_leaves_nothing_running_and_serves_something(serve: Any, name: str) -> None:
    gate = Gated(Simulated(0.4), holds=lambda op, span: gate.started > 1, when="after")
    served = await serve(name, gate, budget=Budget(seconds=0.03), seed=1, **KNOBS[name])
    assert served.outcome.answers[0].text
    assert gate.in_flight == 0
    assert served.outcome.stopped == ("done" if name == "direct" else "deadline")


@pytest.mark.parametrize("name", sorted(KNOBS))
async def test_a_client_that_left_is_billed_and_leaves_nothing_running(name: str) -> None:
    events: list[Event] = []
    gate = Gated(Simulated(), when="after")
    with anyio.move_on_after(0.02):
        await run(Request(CATALOGUE[name], question(), KNOBS[name]), gate, observe=[events.append])
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.outcome.stopped == "gone"
    assert finished.outcome.bill.total == sum((e.usage for e in events if isinstance(e, OpDone)), Usage())
    assert finished.outcome.bill.total.completion > 0
    assert gate.in_flight == 0
