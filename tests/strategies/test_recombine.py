"""Recombination: what is combined, the gate, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted, Simulated


def boxed(*answers: int) -> list[str]:
    return [f"draft {place}: \\boxed{{{answer}}}" for place, answer in enumerate(answers)]


async def test_a_combination_that_the_gate_prefers_is_served(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 3), "combine": ["\\boxed{7}"], "pairwise": [[0, 1]]})
    served = await serve("recombine", engine, n=3)
    assert served.texts == ["\\boxed{7}"]
    assert engine.tags == ["draft", "combine", "pairwise"]


async def test_the_leader_comes_first_and_unfinished_samples_are_not_shown(serve: Any) -> None:
    drafts = [*boxed(5, 4, 4), Draft("cut \\boxed{6} becau", "length", n_tokens=4)]
    engine = Scripted({"draft": drafts, "combine": ["\\boxed{4}"]})
    await serve("recombine", engine, n=4)
    seen = engine.asked[1].chat.messages[-1].content
    assert "<candidate fence>\ndraft 1: \\boxed{4}\n</candidate fence>" in seen
    assert "<others fence>\ndraft 0: \\boxed{5}\n\n---\n\ndraft 2: \\boxed{4}\n</others fence>" in seen


async def test_samples_that_agree_are_not_combined(serve: Any) -> None:
    assert (await serve("recombine", Scripted({"draft": boxed(4, 4)}), n=2)).texts == ["draft 0: \\boxed{4}"]


@pytest.mark.parametrize("values", [[0.5, 0.5], [1, 0], [None, 1], [0, None]])
async def test_the_leader_stays_unless_it_strictly_loses(serve: Any, values: list[Any]) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4), "combine": ["\\boxed{7}"], "judge": [values]})
    assert (await serve("recombine", engine, n=3, gate="judge")).texts == ["draft 1: \\boxed{4}"]


async def test_further_choices_are_the_samples_by_votes(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4), "combine": ["\\boxed{7}"], "pairwise": [[0, 1]]})
    served = await serve("recombine", engine, n=3, choices=3)
    assert served.texts == ["\\boxed{7}", "draft 1: \\boxed{4}", "draft 0: \\boxed{5}"]


async def test_tool_calls_and_the_asked_shape_are_never_lost(serve: Any, ask: Any) -> None:
    calls = [Draft("", "tool_calls", (ToolCall("1", "look", f'{{"x": {x}}}'),), n_tokens=3) for x in (1, 2)]
    served = await serve("recombine", Scripted({"draft": calls, "combine": ["Words."]}), n=2, gate="none")
    assert served.outcome.answers[0].tool_calls == calls[0].tool_calls
    question = replace(ask(), format=Format("json_object"))
    script = {"draft": ['{"x": 1}', '{"x": 2}'], "combine": ["{"]}
    shape = {"json_object": lambda op: [d.text.endswith("}") for d in op.drafts]}
    assert (await serve("recombine", Scripted(script | shape), question, n=2, gate="none")).texts == ['{"x": 1}']


async def test_requests_it_cannot_serve_are_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="cannot fill 3 choices"):
        await serve("recombine", Scripted({}), n=2, choices=3)
    with pytest.raises(BadRequest, match="needs messages"):
        await serve("recombine", Scripted({}), Chat((), prompt="Once upon"))


async def test_the_leader_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"draft": boxed(5, 4, 4), "combine": ["\\boxed{7}"]}
    gate = Gated(Scripted(script), holds=lambda op, span: op.tag == "pairwise")
    served = await serve("recombine", gate, n=3, budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["draft 1: \\boxed{4}"], "deadline", 1)
    served = await serve("recombine", Scripted(script), n=3, budget=Budget(calls=3))
    assert (served.texts, served.outcome.stopped) == (["draft 1: \\boxed{4}"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1200


async def test_accuracy_and_cost_follow_the_vote_the_combination_and_the_gate(serve: Any) -> None:
    """Of three samples: all right; two right, and the leader may be combined away; one right, and it may be found."""
    p, t, keeps, fixes = 0.6, 0.8, 0.7, 0.6
    engine = Simulated(p, t, rivals=1, confidence=keeps, insight=fixes, length=8)
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("recombine", engine, question, seed=i, n=3)
        right += engine.brain.is_right(question, served.texts[0])
        calls += served.outcome.bill.total.calls
    leads, trails = 3 * p**2 * (1 - p), 3 * p * (1 - p) ** 2
    law = p**3 + leads * (1 - (1 - keeps) * (1 - t)) + trails * fixes * t
    cost = 3 + leads * (2 - keeps) + trails * (1 + fixes)
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
    assert abs(calls / RUNS - cost) < 0.12
