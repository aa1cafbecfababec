"""Berry: rewrites, comparisons, ranks, ends, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate, Score
from strop.strategies.testing import Gated, Scripted, Simulated


def preferred(op: Any) -> list[float]:
    """A judge that reads how good the two are out of their texts."""
    first, second = (float(draft.text.split()[-1]) for draft in op.drafts)
    return [float(first > second), float(second > first)]


def script(*rewrites: Any, first: Any = "a 0.5", **replies: Any) -> Scripted:
    return Scripted(
        {"draft": [first], "critique": lambda op: "weak", "rewrite": [*rewrites], "pairwise": preferred} | replies
    )


async def test_the_answer_that_beats_the_others_is_served(serve: Any) -> None:
    engine = script("b 0.2", "c 0.9", "d 0.4")
    served = await serve("berry", engine, n=4)
    assert served.texts == ["c 0.9"]
    assert engine.tags.count("critique") == 3


async def test_a_rewrite_sees_the_answer_and_its_review(serve: Any) -> None:
    engine = script("b 0.2")
    await serve("berry", engine, n=2)
    asked = next(op for op in engine.asked if op.tag == "rewrite")
    assert isinstance(asked, Generate)
    words = asked.chat.messages[-1].content
    assert "<candidate fence>\na 0.5\n</candidate fence>" in words
    assert "<critique fence>\nweak\n</critique fence>" in words


async def test_every_answer_is_compared_with_all_before_it(serve: Any) -> None:
    engine = script("b 0.2", "c 0.9")
    await serve("berry", engine, n=3)
    pairs = [tuple(draft.text[0] for draft in op.drafts) for op in engine.asked if isinstance(op, Score)]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]


async def test_an_answer_gets_its_rewrites_before_its_children_do(serve: Any) -> None:
    served = await serve("berry", script("b 0.6", "c 0.9", "d 0.1", "e 0.2"), n=5, children=2, explore=0.0)
    parents = [
        fact for event in served.events for fact in [getattr(event, "facts", {}).get("parent")] if fact is not None
    ]
    assert parents == [0, 0, 2, 2]


async def test_comparisons_that_cannot_be_told_leave_the_first_answer(serve: Any) -> None:
    engine = script("b 0.6", "c 0.9", pairwise=lambda op: [None, None])
    assert (await serve("berry", engine, n=3)).texts == ["a 0.5"]


async def test_an_unfinished_answer_ranks_below_whole_ones(serve: Any) -> None:
    engine = script(Draft("b 0.9", "length", n_tokens=2))
    assert (await serve("berry", engine, n=2)).texts == ["a 0.5"]


async def test_a_draft_of_the_wrong_shape_cannot_win(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = script("b 0.9", json_object=[[True, False]])
    assert (await serve("berry", engine, question, n=2)).texts == ["a 0.5"]


async def test_raw_prompts_are_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="needs messages"):
        await serve("berry", Scripted({}), Chat(prompt="once"))


async def test_several_choices_are_the_first_ranks(serve: Any) -> None:
    assert (await serve("berry", script("b 0.2", "c 0.9"), n=3, choices=3)).texts == ["c 0.9", "a 0.5", "b 0.2"]
    with pytest.raises(BadRequest, match=r"n=2 answers, so it cannot fill 3 choices"):
        await serve("berry", Scripted({}), n=2, choices=3)


async def test_the_best_answer_so_far_is_served_when_time_is_up(serve: Any) -> None:
    gate = Gated(script("b 0.9", "c 0.2"), holds=lambda op, span: gate.started > 5)
    served = await serve("berry", gate, n=6, budget=Budget(seconds=0.5))
    assert served.texts == ["b 0.9"]
    assert (served.outcome.stopped, served.outcome.degraded, gate.in_flight) == ("deadline", "kept", 0)


async def test_the_first_answer_is_served_when_the_budget_is_spent_at_once(serve: Any) -> None:
    served = await serve("berry", script("b 0.9"), n=4, budget=Budget(calls=2))
    assert (served.texts, served.outcome.stopped) == (["a 0.5"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 300


async def accuracy(serve: Any, engine: Simulated, **knobs: Any) -> float:
    right = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("berry", engine, question, seed=i, **knobs)
        right += engine.brain.is_right(question, served.texts[0])
    return right / RUNS


async def test_with_perfect_comparisons_one_right_answer_anywhere_is_enough(serve: Any) -> None:
    law = 1 - 0.75**5
    got = await accuracy(serve, Simulated(0.25, 1.0, insight=0.25, confidence=1.0, length=8), n=5)
    assert abs(got - law) < 4 * (law * (1 - law) / RUNS) ** 0.5


async def test_comparisons_without_taste_are_worth_one_answer(serve: Any) -> None:
    engine = Simulated(0.4, 0.5, insight=0.4, confidence=0.4, length=8)
    assert abs(await accuracy(serve, engine, n=3) - 0.4) < 4 * (0.24 / RUNS) ** 0.5


async def test_the_cost_is_n_answers_their_critiques_and_all_pairs(serve: Any) -> None:
    bill = (await serve("berry", Simulated(), n=6, seed=1)).outcome.bill
    calls = {phase: usage.calls for phase, usage in bill.phases.items()}
    assert calls == {"draft": 1, "critique": 5, "rewrite": 5, "pairwise": 15}
