"""Diverse verifier tree search: trees, ends, limits, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Format
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate, Steps
from strop.strategies.testing import Gated, Scripted, Simulated
from strop.strategies.testing.chain import Chain

BREAK = "\n\n"


def step(text: str) -> Draft:
    """A step that the blank line ended."""
    return Draft(text, "stop", n_tokens=0, stop_reason=BREAK)


def grown(engine: Any) -> list[tuple[int, str]]:
    """How many next steps were asked for after which text."""
    return [(op.n, op.prefix.draft.text) for op in engine.asked if isinstance(op, Generate) and op.prefix]


async def test_every_tree_goes_on_from_its_own_best_step(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": [*map(step, "abcd"), *(f"{x} \\boxed{{{x}}}" for x in (1, 2, 3, 3))],
            "prm": [[0.1], [0.2], [0.9], [0.8], [0.5], [0.4], [0.3], [0.3]],
        }
    )
    served = await serve("dvts", engine, n=4, width=2)
    assert grown(engine) == [(2, "b"), (2, "c")]
    assert served.texts == ["c\n\n3 \\boxed{3}"]


async def test_unweighted_the_best_single_end_wins(serve: Any) -> None:
    engine = Scripted({"draft": ["\\boxed{1}", "so \\boxed{2}", "thus \\boxed{2}"], "prm": [[0.7], [0.4], [0.4]]})
    assert (await serve("dvts", engine, n=3, width=1, weighted=False)).texts == ["\\boxed{1}"]


async def test_scores_of_equal_answers_of_different_trees_add_up(serve: Any) -> None:
    engine = Scripted({"draft": ["\\boxed{1}", "so \\boxed{2}", "thus \\boxed{2}"], "prm": [[0.7], [0.4], [0.45]]})
    assert (await serve("dvts", engine, n=3, width=1)).texts == ["thus \\boxed{2}"]


async def test_a_tree_ends_when_its_best_path_does_and_the_others_go_on(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": ["end \\boxed{1}", step("b"), step("c"), step("d"), "x", "y"],
            "prm": [[0.9], [0.5], [0.4], [0.6], [0.1], [0.2]],
        }
    )
    served = await serve("dvts", engine, n=4, width=2)
    assert grown(engine) == [(2, "d")]
    assert served.texts == ["end \\boxed{1}"]
    assert served.notes["ended"] == 3


async def test_an_end_that_is_not_the_best_of_its_tree_is_dropped(serve: Any) -> None:
    engine = Scripted(
        {"draft": ["end \\boxed{1}", step("b"), "x \\boxed{2}", "y \\boxed{3}"], "prm": [[0.4], [0.5], [0.1], [0.2]]}
    )
    served = await serve("dvts", engine, n=2, width=2)
    assert served.texts == ["b\n\ny \\boxed{3}"]


async def test_json_is_a_single_step(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted({"draft": ['{"x":', '{"x": 2}'], "judge": [[0.9, 0.2]], "json_object": [[False, True]]})
    assert (await serve("dvts", engine, question, n=2, width=1, by="judge")).texts == ['{"x": 2}']


async def test_choices_beyond_the_ends_are_filled_with_unfinished_steps(serve: Any) -> None:
    engine = Scripted({"draft": ["end \\boxed{1}", step("b"), step("c")], "prm": [[0.9], [0.2], [0.3]]})
    served = await serve("dvts", engine, n=3, width=3, choices=3)
    assert [(a.text, a.finish) for a in served.outcome.answers] == [
        ("end \\boxed{1}", "stop"),
        ("c", "length"),
        ("b", "length"),
    ]
    with pytest.raises(BadRequest, match=r"n=2 answers, so it cannot fill 3 choices"):
        await serve("dvts", Scripted({}), n=2, choices=3)


async def test_an_ended_tree_is_served_when_time_is_up(serve: Any) -> None:
    script = Scripted({"draft": ["end", step("b")], "prm": [[0.4], [0.5]]})
    gate = Gated(script, holds=lambda op, span: "step[" in span.key)
    served = await serve("dvts", gate, n=2, width=1, budget=Budget(seconds=0.2))
    assert served.texts == ["end"]
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 1)


async def test_the_best_step_is_served_unfinished_when_the_budget_ends_before_any_answer(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), step("b")], "judge": [[0.2, 0.9]]})
    gate = Gated(engine, holds=lambda op, span: "step[" in span.key)
    served = await serve("dvts", gate, n=2, by="judge", budget=Budget(seconds=0.2))
    assert (served.texts, served.outcome.answers[0].finish) == (["b"], "length")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 300


async def accuracy(serve: Any, engine: Any, **knobs: Any) -> float:
    right = 0
    for i in range(RUNS):
        served = await serve("dvts", engine, f"What is {i} + {i + 1}?", seed=i, **knobs)
        right += engine.is_right(served.texts[0])
    return right / RUNS


def sigma(p: float) -> float:
    return float((p * (1 - p) / RUNS) ** 0.5)


async def test_with_perfect_rewards_one_tree_of_several_must_stay_right(serve: Any) -> None:
    tree = (1 - (1 - 0.5) ** 2) ** 4
    law = 1 - (1 - tree) ** 2
    assert abs(await accuracy(serve, Chain(4, 0.5), n=4, width=2) - law) < 4 * sigma(law)


async def test_rewards_that_know_nothing_leave_a_single_tree_with_the_models_own_accuracy(serve: Any) -> None:
    law = 0.8**3
    engine = Chain(3, 0.8, taste=0.5)
    assert abs(await accuracy(serve, engine, n=4, width=4, weighted=False) - law) < 4 * sigma(law)


async def test_trees_of_one_step_at_a_time_are_a_best_of_n_on_simulated_drafts(serve: Any) -> None:
    engine, right, law = Simulated(0.3, 1.0, length=20), 0, 1 - 0.7**4
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("dvts", engine, question, seed=i, n=4, width=1, weighted=False)
        right += engine.brain.is_right(question, served.texts[0])
    assert abs(right / RUNS - law) < 4 * sigma(law)


async def test_the_cost_is_n_generations_and_n_scores_per_step(serve: Any) -> None:
    engine = Chain(5, 0.5)
    bill = (await serve("dvts", engine, n=6, width=2, seed=1)).outcome.bill
    assert bill.total.calls == 6 * 5
    assert len([op for op in engine.asked if isinstance(op, Steps)]) == 6 * 5
