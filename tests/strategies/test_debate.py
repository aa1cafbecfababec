"""Debate: rounds, agreement, the gate, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted, Simulated


def boxed(*answers: int) -> list[str]:
    return [f"draft {place}: \\boxed{{{answer}}}" for place, answer in enumerate(answers)]


async def test_agents_that_agree_do_not_debate(serve: Any) -> None:
    engine = Scripted({"draft": boxed(4, 4, 4)})
    assert (await serve("debate", engine, rounds=8)).texts == ["draft 0: \\boxed{4}"]
    assert engine.tags == ["draft"]


async def test_every_agent_reads_its_own_answer_and_the_others(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 3), "hear": boxed(4, 4, 4), "pairwise": [[0, 1]]})
    assert (await serve("debate", engine)).texts == ["draft 0: \\boxed{4}"]
    seen = engine.asked[2].chat.messages[-1].content
    assert "<candidate fence>\ndraft 1: \\boxed{4}\n</candidate fence>" in seen
    assert "<others fence>\ndraft 0: \\boxed{5}\n\n---\n\ndraft 2: \\boxed{3}\n</others fence>" in seen


@pytest.mark.parametrize("values", [[0.5, 0.5], [1, 0], [None, 1], [0, None]])
async def test_the_first_majority_stays_unless_it_strictly_loses(serve: Any, values: list[Any]) -> None:
    engine = Scripted({"draft": boxed(5, 5, 4), "hear": boxed(4, 4, 4), "judge": [values]})
    assert (await serve("debate", engine, gate="judge")).texts == ["draft 0: \\boxed{5}"]


async def test_a_majority_that_did_not_change_needs_no_gate(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 5, 4), "hear": boxed(5, 5, 5)})
    assert (await serve("debate", engine)).texts == ["draft 0: \\boxed{5}"]


async def test_rounds_go_on_until_all_agree(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4), "hear": boxed(5, 4, 4, 4)})
    assert (await serve("debate", engine, agents=2, rounds=5, gate="none")).texts == ["draft 2: \\boxed{4}"]
    assert engine.tags.count("hear") == 4


async def test_the_temperature_rises_by_round(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4), "hear": boxed(5, 4, 5, 4)})
    await serve("debate", engine, ask(temperature=0.5), agents=2, rounds=2, temperature_step=0.25)
    assert [op.chat.sampling.temperature for op in engine.asked] == [0.5, 0.5, 0.5, 0.75, 0.75]


async def test_tool_calls_and_the_asked_shape_are_never_lost(serve: Any, ask: Any) -> None:
    calls = [Draft("", "tool_calls", (ToolCall("1", "look", f'{{"x": {x}}}'),), n_tokens=3) for x in (1, 2)]
    served = await serve("debate", Scripted({"draft": calls, "hear": ["Words.", "Words."]}), agents=2)
    assert served.outcome.answers[0].tool_calls == calls[0].tool_calls
    question = replace(ask(), format=Format("json_object"))
    script = {"draft": ['{"x": 1}', '{"x": 2}'], "hear": ["{", "{"]}
    shape = {"json_object": lambda op: [d.text.endswith("}") for d in op.drafts]}
    assert (await serve("debate", Scripted(script | shape), question, agents=2)).texts == ['{"x": 1}']


async def test_a_raw_prompt_is_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="debate needs messages"):
        await serve("debate", Scripted({}), Chat((), prompt="Once upon"))


async def test_the_first_majority_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"draft": boxed(5, 4, 4), "hear": boxed(5, 5)}
    gate = Gated(Scripted(script), holds=lambda op, span: "agent[2]" in span.key)
    served = await serve("debate", gate, budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["draft 1: \\boxed{4}"], "deadline", 1)
    served = await serve("debate", Scripted(script), budget=Budget(calls=3))
    assert (served.texts, served.outcome.stopped) == (["draft 1: \\boxed{4}"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1000


async def test_a_round_follows_the_minds_that_change_and_the_gate(serve: Any) -> None:
    """Three agents: with r of them right at first, each then keeps a right answer or finds it on its own."""
    p, t, keeps, fixes = 0.6, 0.8, 0.7, 0.6
    engine = Simulated(p, t, rivals=1, confidence=keeps, insight=fixes, length=8)
    right = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("debate", engine, question, seed=i)
        right += engine.brain.is_right(question, served.texts[0])
    two = keeps**2 * fixes + keeps**2 * (1 - fixes) + 2 * keeps * (1 - keeps) * fixes
    one = fixes**2 * keeps + fixes**2 * (1 - keeps) + 2 * fixes * (1 - fixes) * keeps
    law = p**3 + 3 * p**2 * (1 - p) * (1 - (1 - two) * (1 - t)) + 3 * p * (1 - p) ** 2 * one * t
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5


async def test_the_cost_is_agents_per_round_and_one_scoring(serve: Any) -> None:
    engine = Simulated(0.0, 1.0, rivals=50, focus=0.0, insight=0.0, length=8)
    served = await serve("debate", engine, agents=4, rounds=2, seed=1)
    assert served.outcome.bill.total.calls in (12, 13)
