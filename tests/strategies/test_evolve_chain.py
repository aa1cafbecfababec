"""The chain of refinements: links, the scorer at its end, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted, Simulated


async def test_the_best_link_of_the_chain_is_served(serve: Any) -> None:
    engine = Scripted({"draft": ["one"], "better": ["two", "three", "four"], "judge": [[0.1, 0.3, 0.9, 0.2]]})
    served = await serve("evolve_chain", engine)
    assert served.texts == ["three"]
    assert engine.tags == ["draft", "better", "better", "better", "judge"]


async def test_each_link_sees_the_one_before_it_and_the_scorer_only_the_question(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": ["one"], "better": ["two", "three"], "judge": [[0, 0, 1]]})
    await serve("evolve_chain", engine, length=3)
    last = engine.asked[2].chat.messages[-1].content
    assert "<candidate fence>\ntwo\n</candidate fence>" in last
    assert "one" not in [m.content for m in engine.asked[2].chat.messages]
    assert engine.asked[3].chat == ask()


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.5, 0.5], "one"), ([0.6, 0.5], "one"), ([None, None], "one"), ([0.1, None], "one"), ([None, 0.1], "two")],
)
async def test_the_first_answer_stays_on_a_tie_and_without_scores(serve: Any, scores: list[Any], best: str) -> None:
    engine = Scripted({"draft": ["one"], "better": ["two"], "judge": [scores]})
    assert (await serve("evolve_chain", engine, length=2)).texts == [best]


async def test_a_link_that_changes_nothing_ends_the_chain(serve: Any) -> None:
    engine = Scripted({"draft": ["one"], "better": ["two", "two"], "judge": [[0, 1]]})
    assert (await serve("evolve_chain", engine, length=8)).texts == ["two"]


async def test_a_chain_of_one_link_is_not_scored(serve: Any) -> None:
    assert (await serve("evolve_chain", Scripted({"draft": ["one"], "better": ["one"]}))).texts == ["one"]


async def test_the_temperature_rises_along_the_chain(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": ["1"], "better": ["2", "3", "4"], "judge": [[0, 0, 0, 1]]})
    await serve("evolve_chain", engine, ask(temperature=0.5), temperature_step=0.25)
    assert [op.chat.sampling.temperature for op in engine.asked[:4]] == [0.5, 0.5, 0.75, 1.0]


async def test_tool_calls_and_the_asked_shape_are_never_lost(serve: Any, ask: Any) -> None:
    call = Draft("", "tool_calls", (ToolCall("1", "look", "{}"),), n_tokens=3)
    served = await serve("evolve_chain", Scripted({"draft": [call], "better": ["Words."]}))
    assert served.outcome.answers[0].tool_calls == call.tool_calls
    question = replace(ask(), format=Format("json_object"))
    script = {"draft": ["{}"], "better": ["{"], "json_object": [[True, False]]}
    assert (await serve("evolve_chain", Scripted(script), question)).texts == ["{}"]


async def test_a_raw_prompt_is_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="needs messages"):
        await serve("evolve_chain", Scripted({}), Chat((), prompt="Once upon"))


async def test_the_first_answer_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"draft": ["one"], "better": ["two"]}
    gate = Gated(Scripted(script), holds=lambda op, span: op.tag == "judge")
    served = await serve("evolve_chain", gate, length=2, budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["one"], "deadline", 1)
    served = await serve("evolve_chain", Scripted(script), budget=Budget(calls=2))
    assert (served.texts, served.outcome.stopped) == (["one"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 600


async def test_with_a_perfect_scorer_a_right_answer_anywhere_in_the_chain_is_found(serve: Any) -> None:
    p, fixes, length = 0.3, 0.25, 4
    engine = Simulated(p, 1.0, confidence=0.0, insight=fixes, length=60)
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("evolve_chain", engine, question, seed=i, length=length)
        right += engine.brain.is_right(question, served.texts[0])
        calls += served.outcome.bill.phases["draft"].calls + served.outcome.bill.phases["better"].calls
    law = 1 - (1 - p) * (1 - fixes) ** (length - 1)
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
    assert calls >= 0.99 * length * RUNS


async def test_with_a_scorer_that_knows_nothing_a_random_link_is_served(serve: Any) -> None:
    p, keeps, fixes = 0.6, 0.7, 0.2
    engine = Simulated(p, 0.5, confidence=keeps, insight=fixes, length=60)
    right = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("evolve_chain", engine, question, seed=i, length=2)
        right += engine.brain.is_right(question, served.texts[0])
    law = (p + p * keeps + (1 - p) * fixes) / 2
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
