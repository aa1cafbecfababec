"""AB-MCTS: wider or deeper, scores, ends, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate
from strop.strategies.testing import Gated, Scripted, Simulated


def scored(op: Any) -> list[float]:
    """A judge that reads the score out of the text."""
    return [float(draft.text.split()[-1]) for draft in op.drafts]


def fresh(engine: Scripted) -> list[bool]:
    """For each generation whether it answers afresh."""
    return [len(op.chat.messages) == 1 for op in engine.asked if isinstance(op, Generate)]


async def test_the_best_scored_answer_is_served(serve: Any) -> None:
    engine = Scripted({"draft": ["a 0.2", "b 0.9", "c 0.4"], "judge": scored})
    served = await serve("ab_mcts", engine, n=3)
    assert served.texts == ["b 0.9"]
    assert served.notes["parents"] == [0, 0, 0]


async def test_a_refinement_sees_the_answer_and_its_score(serve: Any) -> None:
    engine = Scripted({"draft": [f"d{i} 0.2" for i in range(9)], "refine": ["better 0.9"] * 9, "judge": scored})
    served = await serve("ab_mcts", engine, n=9, batch=1, seed=2)
    assert "refine" in engine.tags
    asked = next(op for op in engine.asked if op.tag == "refine")
    words = asked.chat.messages[-1].content  # type: ignore[union-attr]
    assert "<candidate fence>\nd0 0.2\n</candidate fence>" in words
    assert "Score: 0.20" in words
    assert served.texts == ["better 0.9"]


async def test_where_refining_pays_the_tree_grows_deep_and_else_wide(serve: Any) -> None:
    async def shape(refined: float) -> tuple[float, float]:
        wide = deep = 0.0
        for seed in range(12):
            engine = Scripted({"draft": lambda op: "x 0.3", "refine": lambda op: f"y {refined}", "judge": scored})
            notes = (await serve("ab_mcts", engine, n=16, batch=1, seed=seed)).notes
            wide, deep = wide + notes["wide"] / 12, deep + notes["deep"] / 12
        return wide, deep

    (wide_if_good, deep_if_good), (wide_if_bad, deep_if_bad) = await shape(0.95), await shape(0.0)
    assert wide_if_good + 3 < wide_if_bad
    assert deep_if_bad < deep_if_good


async def test_an_answer_without_a_score_cannot_win(serve: Any) -> None:
    engine = Scripted({"draft": ["a", "b", "c"], "judge": [[None, 0.1, None]]})
    assert (await serve("ab_mcts", engine, n=3)).texts == ["b"]


async def test_an_unfinished_answer_ranks_below_finished_ones(serve: Any) -> None:
    engine = Scripted({"draft": [Draft("cut 1.0", "length", n_tokens=2), "whole 0.1"], "judge": scored})
    assert (await serve("ab_mcts", engine, n=2)).texts == ["whole 0.1"]


async def test_scores_that_do_not_lie_in_the_unit_interval_are_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match=r"needs scores in \[0, 1\]; 'reward' gave"):
        await serve("ab_mcts", Scripted({"draft": ["a"], "reward": [[3.5]]}), n=1, by="reward")


async def test_raw_prompts_are_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="needs messages"):
        await serve("ab_mcts", Scripted({}), Chat(prompt="once"))


async def test_a_draft_of_the_wrong_shape_cannot_win(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted({"draft": ['{"x":', '{"x": 2}'], "judge": [[0.9, 0.2]], "json_object": [[False, True]]})
    assert (await serve("ab_mcts", engine, question, n=2)).texts == ['{"x": 2}']


async def test_several_choices_are_the_best_answers(serve: Any) -> None:
    engine = Scripted({"draft": ["a 0.2", "b 0.9", "c 0.4"], "judge": scored})
    assert (await serve("ab_mcts", engine, n=3, choices=2)).texts == ["b 0.9", "c 0.4"]
    with pytest.raises(BadRequest, match=r"n=2 answers, so it cannot fill 3 choices"):
        await serve("ab_mcts", Scripted({}), n=2, choices=3)


async def test_the_same_seed_grows_the_same_tree_whatever_is_faster(serve: Any, jittered: Any) -> None:
    runs = [await serve("ab_mcts", jittered(Simulated(), i), n=9, seed=4) for i in range(4)]
    assert len({(run.outcome.answers, tuple(run.notes["parents"])) for run in runs}) == 1
    others = [tuple((await serve("ab_mcts", Simulated(), n=9, seed=i)).notes["parents"]) for i in range(6)]
    assert len(set(others)) > 1


async def test_the_best_answer_so_far_is_served_when_time_is_up(serve: Any) -> None:
    script = Scripted({"draft": ["a 0.2", "b 0.9", "c 0.4"], "judge": scored})
    gate = Gated(script, holds=lambda op, span: gate.started > 4)
    served = await serve("ab_mcts", gate, n=6, budget=Budget(seconds=0.2))
    assert served.texts == ["b 0.9"]
    assert (served.outcome.stopped, served.outcome.degraded, gate.in_flight) == ("deadline", "kept", 0)


async def test_the_best_answer_so_far_is_served_when_the_budget_is_spent(serve: Any) -> None:
    engine = Scripted({"draft": ["a 0.2", "b 0.9", "c 0.4", "d 0.1"], "judge": scored, "refine": ["e 0.1"] * 3})
    served = await serve("ab_mcts", engine, n=6, budget=Budget(calls=4))
    assert (served.texts, served.outcome.stopped) == (["b 0.9"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 400


async def accuracy(serve: Any, engine: Simulated, **knobs: Any) -> float:
    right = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("ab_mcts", engine, question, seed=i, **knobs)
        right += engine.brain.is_right(question, served.texts[0])
    return right / RUNS


async def test_with_a_perfect_judge_and_repairs_as_likely_as_luck_the_shape_of_the_tree_does_not_matter(
    serve: Any,
) -> None:
    law = 1 - 0.8**6
    got = await accuracy(serve, Simulated(0.2, 1.0, insight=0.2, length=8), n=6, batch=2)
    assert abs(got - law) < 4 * (law * (1 - law) / RUNS) ** 0.5


async def test_repairs_likelier_than_luck_are_found_and_used(serve: Any) -> None:
    law = 1 - 0.8**6
    got = await accuracy(serve, Simulated(0.2, 1.0, insight=0.9, length=8), n=6, batch=1)
    assert got > law + 0.03


async def test_a_judge_without_taste_is_worth_one_draft(serve: Any) -> None:
    engine = Simulated(0.4, 0.5, confidence=0.4, insight=0.4, length=8)
    assert abs(await accuracy(serve, engine, n=4) - 0.4) < 4 * (0.24 / RUNS) ** 0.5


async def test_the_cost_is_n_generations_and_n_scores(serve: Any) -> None:
    bill = (await serve("ab_mcts", Simulated(), n=10, batch=3, seed=1)).outcome.bill
    assert bill.phases["judge"].calls == 10
    assert bill.total.calls == 20
