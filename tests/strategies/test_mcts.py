"""Tree search over steps: selection, look-ahead, ends, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from strop.strategies.kit import Budget, Draft, Format
from strop.strategies.kit.ops import Generate
from strop.strategies.testing import Gated, Scripted, Simulated
from strop.strategies.testing.chain import Chain

BREAK = "\n\n"


def step(text: str) -> Draft:
    """A step that the blank line ended."""
    return Draft(text, "stop", n_tokens=0, stop_reason=BREAK)


def grown(engine: Any) -> list[str]:
    """Which texts were continued."""
    return [op.prefix.draft.text for op in engine.asked if isinstance(op, Generate) and op.prefix]


async def test_the_leaf_with_the_best_value_is_expanded_and_a_good_end_stops_the_search(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), step("b"), "c", "d"], "prm": [[0.1], [0.8], [0.95], [0.2]]})
    served = await serve("mcts", engine, width=2, rollout=0)
    assert served.texts == ["b\n\nc"]
    assert served.notes["iterations"] == 2
    assert engine.unused() == {}


async def test_the_search_returns_to_what_it_passed_over(serve: Any) -> None:
    engine = Scripted(
        {"draft": [step("a"), step("b"), "x", "y", "good", "z"], "prm": [[0.5], [0.8], [0.1], [0.1], [0.95], [0.2]]}
    )
    served = await serve("mcts", engine, width=2, rollout=0, explore=0.0)
    assert grown(engine) == ["b", "a"]
    assert served.texts == ["a\n\ngood"]


async def test_the_look_ahead_corrects_a_value_and_its_end_competes(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": [step("a"), step("b"), step("ahead"), "end", "c", "d", "e"],
            "prm": [[0.6], [0.5], [0.2], [0.8], [0.1], [0.1], [0.1]],
        }
    )
    served = await serve("mcts", engine, width=2, rollout=2, iterations=1, mix=0.5)
    assert served.texts == ["a\n\nahead\n\nend"]
    ahead = [op for op in engine.asked if isinstance(op, Generate)][1:]
    assert [(op.n, op.chat.sampling.temperature) for op in ahead] == [(1, 0.0), (1, 0.0)]


async def test_exploration_visits_a_worse_branch(serve: Any) -> None:
    async def visited(explore: float) -> list[str]:
        draft = [step("a"), step("b"), *(step(f"s{i}") for i in range(20)), "end"]
        engine = Scripted({"draft": draft, "prm": [[0.4], [0.6], *[[0.6]] * 30]})
        await serve("mcts", engine, width=2, rollout=0, explore=explore, iterations=4)
        return grown(engine)

    assert "a" not in await visited(0.0)
    assert "a" in await visited(3.0)


async def test_without_an_end_the_most_promising_answer_is_written_to_its_end(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), step("b"), "the rest"], "prm": [[0.1], [0.8], [0.5]]})
    served = await serve("mcts", engine, width=2, rollout=0, iterations=1)
    assert served.texts == ["b\n\nthe rest"]
    last = engine.asked[-2]
    assert isinstance(last, Generate)
    assert (last.chat.sampling.stop, last.chat.sampling.max_tokens) == ((), None)


async def test_when_every_answer_has_ended_the_search_stops(serve: Any) -> None:
    engine = Scripted({"draft": ["a", "b"], "prm": [[0.1], [0.3]]})
    served = await serve("mcts", engine, width=2)
    assert (served.texts, served.notes["iterations"]) == (["b"], 1)


async def test_equal_steps_are_one_node(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), step("a"), "x", "y"], "prm": [[0.5], [0.95], [0.2]]})
    assert (await serve("mcts", engine, width=2, rollout=0)).notes["nodes"] == 3


async def test_a_step_that_could_not_be_scored_does_not_win(serve: Any) -> None:
    engine = Scripted({"draft": ["a", "b"], "judge": [[None, 0.1]]})
    assert (await serve("mcts", engine, width=2, by="judge")).texts == ["b"]


async def test_json_is_a_single_step(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted({"draft": ['{"x":', '{"x": 2}'], "judge": [[0.8, 0.2]], "json_object": [[False, True]]})
    assert (await serve("mcts", engine, question, width=2, by="judge")).texts == ['{"x": 2}']


async def test_an_ended_answer_is_served_when_time_is_up(serve: Any) -> None:
    script = Scripted({"draft": ["end", step("b")], "prm": [[0.4], [0.5]]})
    gate = Gated(script, holds=lambda op, span: "step[" in span.key)
    served = await serve("mcts", gate, width=2, budget=Budget(seconds=0.2))
    assert served.texts == ["end"]
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 1)


async def test_the_most_promising_step_is_served_unfinished_when_time_is_up_before_any_end(serve: Any) -> None:
    script = Scripted({"draft": [step("a"), step("b")], "prm": [[0.4], [0.5]]})
    gate = Gated(script, holds=lambda op, span: "step[" in span.key)
    served = await serve("mcts", gate, width=2, rollout=0, budget=Budget(seconds=0.2))
    assert (served.texts, served.outcome.answers[0].finish) == (["b"], "length")


async def test_an_ended_answer_is_served_when_the_budget_is_spent(serve: Any) -> None:
    engine = Scripted({"draft": ["end", step("b"), "c", "d"], "judge": [[0.4, 0.5]]})
    served = await serve("mcts", engine, width=2, by="judge", rollout=0, budget=Budget(calls=2))
    assert (served.texts, served.outcome.stopped) == (["end"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 250


async def test_with_perfect_rewards_a_right_answer_is_found_if_the_tree_has_one(serve: Any) -> None:
    q, width, law = 0.5, 2, 1.0
    for _ in range(3):
        law = 1 - (1 - q * law) ** width
    engine, right = Chain(3, q), 0
    for i in range(RUNS):
        served = await serve(
            "mcts", engine, f"What is {i} + 1?", width=width, rollout=0, explore=0.0, iterations=32, seed=i
        )
        right += engine.is_right(served.texts[0])
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5


async def test_rewards_that_know_nothing_leave_the_models_own_accuracy(serve: Any) -> None:
    engine, law, right = Chain(3, 0.8, taste=0.5), 0.8**3, 0
    for i in range(RUNS):
        served = await serve("mcts", engine, f"What is {i} + 1?", width=2, rollout=0, seed=i)
        right += engine.is_right(served.texts[0])
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5


async def test_on_simulated_drafts_a_perfect_reward_model_finds_right_ends(serve: Any) -> None:
    engine, right = Simulated(0.4, 1.0, length=20), 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("mcts", engine, question, width=3, rollout=0, gate=0.6, iterations=8, seed=i)
        right += engine.brain.is_right(question, served.texts[0])
    assert right / RUNS > 1 - 0.6**3 - 4 * (0.216 * 0.784 / RUNS) ** 0.5


async def test_the_cost_is_at_most_width_and_look_ahead_per_iteration(serve: Any) -> None:
    for iterations, rollout in ((4, 0), (6, 2)):
        served = await serve(
            "mcts", Simulated(length=200), width=3, rollout=rollout, iterations=iterations, gate=1.0, seed=1
        )
        done = served.notes["iterations"]
        assert done == iterations
        assert iterations * 3 <= served.outcome.bill.total.calls <= iterations * (3 + rollout) + 1
