"""Beam search: steps, pruning, ends, limits, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Format
from strop.strategies.kit.errors import BadRequest, ContextTooLong
from strop.strategies.kit.ops import Generate, Score, Steps
from strop.strategies.testing import Gated, Scripted, Simulated
from strop.strategies.testing.chain import Chain

BREAK = "\n\n"


def step(text: str) -> Draft:
    """A step that the blank line ended."""
    return Draft(text, "stop", n_tokens=0, stop_reason=BREAK)


def generations(engine: Any) -> list[Generate]:
    return [op for op in engine.asked if isinstance(op, Generate)]


async def test_the_best_beam_goes_on_and_the_best_end_is_served(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": [step("a"), step("b"), "c \\boxed{1}", "d \\boxed{2}"],
            "prm": [[0.1], [0.9], [0.9, 0.3], [0.9, 0.8]],
        }
    )
    served = await serve("beam_search", engine, n=2, width=2)
    assert served.texts == ["b\n\nd \\boxed{2}"]
    first, second = generations(engine)
    assert (first.n, first.prefix, first.chat.sampling.stop) == (2, None, (BREAK,))
    assert (second.n, second.prefix.draft.text, second.prefix.inject) == (2, "b", BREAK)  # type: ignore[union-attr]
    assert engine.unused() == {}


async def test_narrow_beams_keep_several_and_share_the_steps_among_them(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": [*map(step, "abcd"), *(f"{i} \\boxed{{{i}}}" for i in range(4))],
            "prm": [[0.1], [0.9], [0.2], [0.8], *([0.5, i / 10] for i in range(4))],
        }
    )
    served = await serve("beam_search", engine, n=4, width=2)
    assert [(op.n, op.prefix.draft.text) for op in generations(engine)[1:]] == [(2, "b"), (2, "d")]  # type: ignore[union-attr]
    assert served.texts == ["d\n\n3 \\boxed{3}"]


@pytest.mark.parametrize(("how", "winner"), [("last", "b"), ("min", "a"), ("prod", "a"), ("max", "b")])
async def test_the_aggregate_decides_which_beam_goes_on(serve: Any, how: str, winner: str) -> None:
    engine = Scripted(
        {"draft": [step("a"), step("b"), "end", "end"], "prm": [[0.5, 0.5], [0.1, 0.9], [0.1], [0.1]]},
    )
    served = await serve("beam_search", engine, n=2, width=2, aggregate=how)
    assert served.texts == [f"{winner}\n\nend"]


async def test_a_step_cut_off_by_its_limit_is_not_an_end_and_goes_on_where_it_stopped(serve: Any) -> None:
    cut = Draft("half of", "length", n_tokens=0)
    engine = Scripted({"draft": [cut, " it \\boxed{1}"], "prm": [[0.5], [0.6]]})
    served = await serve("beam_search", engine, n=1, step_tokens=16)
    assert served.texts == ["half of it \\boxed{1}"]
    assert generations(engine)[1].prefix.inject == ""  # type: ignore[union-attr]
    assert generations(engine)[0].chat.sampling.max_tokens == 16


async def test_ended_answers_are_set_aside_and_compete_at_the_end(serve: Any) -> None:
    engine = Scripted(
        {"draft": ["early \\boxed{1}", step("a"), "x \\boxed{2}", "y \\boxed{3}"], "prm": [[0.7], [0.9], [0.6], [0.5]]}
    )
    served = await serve("beam_search", engine, n=2, width=2)
    assert served.texts == ["early \\boxed{1}"]
    assert served.notes["finished"] == 3


async def test_equal_beams_are_kept_once_and_scored_once(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": [step("a"), step("a"), step("a"), step("b"), *["end \\boxed{1}"] * 4],
            "prm": [[0.9], [0.8], [0.5], [0.5]],
        }
    )
    await serve("beam_search", engine, n=4, width=2)
    assert [op.prefix.draft.text for op in generations(engine)[1:]] == ["a", "b"]  # type: ignore[union-attr]
    assert len([op for op in engine.asked if isinstance(op, Steps)]) == 4


async def test_the_last_step_runs_to_the_end(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), "the rest"], "prm": [[0.5], [0.6]]})
    served = await serve("beam_search", engine, n=1, max_steps=2)
    assert served.texts == ["a\n\nthe rest"]
    last = generations(engine)[1].chat.sampling
    assert (last.stop, last.max_tokens) == ((), None)


async def test_an_outcome_scorer_sees_the_text_so_far(serve: Any) -> None:
    engine = Scripted(
        {"draft": [step("a"), step("b"), "x \\boxed{1}", "y \\boxed{2}"], "judge": [[0.9, 0.1], [0.2, 0.6]]}
    )
    served = await serve("beam_search", engine, n=2, width=2, by="judge")
    assert served.texts == ["a\n\ny \\boxed{2}"]
    seen = [[draft.text for draft in op.drafts] for op in engine.asked if isinstance(op, Score)]
    assert seen == [["a", "b"], ["a\n\nx \\boxed{1}", "a\n\ny \\boxed{2}"]]


async def test_a_beam_that_cannot_be_scored_is_pruned_before_those_that_can(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), step("b"), "x", "y"], "judge": [[None, 0.1], [None, None]]})
    served = await serve("beam_search", engine, n=2, width=2, by="judge")
    assert served.texts == ["b\n\nx"]


async def test_the_clients_limit_bounds_the_whole_answer_and_an_answer_it_cut_loses(serve: Any, ask: Any) -> None:
    served = await serve("beam_search", Simulated(length=100), ask(max_tokens=30), seed=1)
    assert (served.outcome.answers[0].finish, served.outcome.stopped) == ("length", "done")
    assert 24 <= served.outcome.answers[0].n_tokens <= 30
    engine = Scripted({"draft": [Draft("cut off", "length", n_tokens=9), "whole"], "prm": [[0.9], [0.1]]})
    assert (await serve("beam_search", engine, ask(max_tokens=10), n=2)).texts == ["whole"]


async def test_the_clients_own_blank_line_stop_is_an_end(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": [step("only")], "prm": [[0.5]]})
    assert (await serve("beam_search", engine, ask(stop=(BREAK,)), n=1)).texts == ["only"]


async def test_json_is_a_single_step(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted({"draft": ['{"x":', '{"x": 2}'], "judge": [[0.9, 0.2]], "json_object": [[False, True]]})
    served = await serve("beam_search", engine, question, n=2, by="judge")
    assert served.texts == ['{"x": 2}']
    assert generations(engine)[0].chat.sampling.stop == ()


async def test_a_full_context_ends_a_beam_with_what_it_has(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), ContextTooLong(9, 8)], "prm": [[0.5]]})
    served = await serve("beam_search", engine, n=1)
    assert (served.texts, served.outcome.answers[0].finish) == (["a"], "length")


async def test_several_choices_are_the_best_ends(serve: Any) -> None:
    engine = Scripted({"draft": ["a", "b", "c"], "prm": [[0.1], [0.9], [0.5]]})
    assert (await serve("beam_search", engine, n=3, choices=3)).texts == ["b", "c", "a"]
    with pytest.raises(BadRequest, match=r"n=2 answers, so it cannot fill 3 choices"):
        await serve("beam_search", Scripted({}), n=2, choices=3)


async def test_the_most_promising_beam_is_served_unfinished_when_time_is_up(serve: Any) -> None:
    script = Scripted({"draft": [step("a"), step("b"), "c", "d"], "prm": [[0.1], [0.9]]})
    gate = Gated(script, holds=lambda op, span: "step[" in span.key)
    served = await serve("beam_search", gate, n=2, width=2, budget=Budget(seconds=0.2))
    assert (served.texts, served.outcome.answers[0].finish) == (["b"], "length")
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 1)


async def test_an_end_is_served_rather_than_an_unfinished_beam_when_the_budget_is_spent(serve: Any) -> None:
    engine = Scripted({"draft": ["end \\boxed{1}", step("b")], "prm": [[0.2], [0.9]]})
    served = await serve("beam_search", engine, n=2, width=2, budget=Budget(calls=2))
    assert served.texts == ["end \\boxed{1}"]
    assert (served.outcome.stopped, served.outcome.degraded) == ("budget", "kept")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 300


async def accuracy(serve: Any, engine: Any, **knobs: Any) -> float:
    right = 0
    for i in range(RUNS):
        served = await serve("beam_search", engine, f"What is {i} + {i + 1}?", seed=i, **knobs)
        right += engine.is_right(served.texts[0])
    return right / RUNS


def sigma(p: float) -> float:
    return float((p * (1 - p) / RUNS) ** 0.5)


@pytest.mark.parametrize("n", [2, 4])
async def test_with_perfect_rewards_every_step_needs_one_right_of_n(serve: Any, n: int) -> None:
    law = (1 - (1 - 0.5) ** n) ** 4  # best-of-n: 1 - (1 - 0.5**4) ** n
    got = await accuracy(serve, Chain(4, 0.5), n=n, width=n)
    assert abs(got - law) < 4 * sigma(law)


async def test_rewards_that_know_nothing_leave_the_models_own_accuracy(serve: Any) -> None:
    law = 0.8**3
    assert abs(await accuracy(serve, Chain(3, 0.8, taste=0.5), n=4, width=2) - law) < 4 * sigma(law)


async def test_on_simulated_drafts_one_right_end_is_enough_for_a_perfect_reward_model(serve: Any) -> None:
    engine, right, expected = Simulated(0.3, 1.0, length=20), 0, 0.0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("beam_search", engine, question, seed=i, n=4)
        right += engine.brain.is_right(question, served.texts[0])
        expected += 1 - 0.7 ** served.notes["finished"]
    law = expected / RUNS
    assert abs(right / RUNS - law) < 4 * sigma(law)


async def test_the_cost_is_n_generations_and_n_scores_per_step(serve: Any) -> None:
    engine = Chain(5, 0.5)
    bill = (await serve("beam_search", engine, n=4, width=2, seed=1)).outcome.bill
    assert bill.total.calls == 4 * 5
    assert len([op for op in engine.asked if isinstance(op, Steps)]) == 4 * 5
    judged = (await serve("beam_search", Simulated(length=8), n=4, by="judge", seed=1)).outcome.bill
    assert judged.phases["judge"].calls <= judged.phases["draft"].calls
