"""Backtracking: the first bad step, the tail written again, the gate, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Format, ToolCall
from strop.strategies.kit.ops import Generate, Steps
from strop.strategies.testing import Gated, Scripted
from strop.strategies.testing.chain import Chain

FIRST = "one\n\ntwo\n\nthree"


async def test_only_the_tail_from_the_first_bad_step_is_written_again(serve: Any) -> None:
    engine = Scripted(
        {"draft": [FIRST, "zwei\n\ndrei", "dos\n\ntres"], "prm": [[0.9, 0.2, 0.1], [0.9, 0.6, 0.7], [0.9, 0.8, 0.8]]}
    )
    served = await serve("backtrack", engine, n=2)
    assert served.texts == ["one\n\ndos\n\ntres"]
    op = engine.asked[2]
    assert isinstance(op, Generate)
    assert op.prefix is not None
    assert (op.prefix.draft.text, op.n, op.chat.sampling.temperature) == ("one\n\n", 2, 1.0)
    assert served.outcome.bill.phases["draft"].completion == 5 + 3 + 3


async def test_an_answer_without_a_bad_step_is_served_as_it_is(serve: Any) -> None:
    served = await serve("backtrack", Scripted({"draft": [FIRST], "prm": [[0.5, 0.9, 0.9]]}))
    assert (served.texts, served.notes["stopped"]) == ([FIRST], "no step is bad")


@pytest.mark.parametrize("rewards", [[0.9, 0.2, 0.2], [0.9, 0.1, 0.9], [0.9, 0.9], []])
async def test_the_answer_stays_unless_the_lowest_reward_rises(serve: Any, rewards: list[float]) -> None:
    engine = Scripted({"draft": [FIRST, "zwei\n\ndrei"], "prm": [[0.9, 0.2, 0.3], rewards]})
    served = await serve("backtrack", engine, n=1)
    assert (served.texts, served.notes["stopped"]) == ([FIRST], "no continuation is better")


async def test_rewards_that_do_not_fit_the_steps_are_no_evidence(serve: Any) -> None:
    served = await serve("backtrack", Scripted({"draft": [FIRST], "prm": [[0.1, 0.1]]}))
    assert (served.texts, served.notes["stopped"]) == ([FIRST], "the steps could not be scored")


async def test_repetitions_of_the_bad_step_and_unfinished_continuations_are_not_even_scored(serve: Any) -> None:
    cut = Draft("zwei\n\ndr", "length", n_tokens=3)
    engine = Scripted(
        {"draft": [FIRST, "two\n\ndrei", cut, "dos\n\ntres", "dos\n\ntres"], "prm": [[0.9, 0.2, 0.3], [1, 1, 1]]}
    )
    assert (await serve("backtrack", engine, n=4)).texts == ["one\n\ndos\n\ntres"]
    assert engine.tags.count("prm") == 2


async def test_a_bad_first_step_starts_all_over(serve: Any) -> None:
    engine = Scripted({"draft": [FIRST, "uno\n\ndos"], "prm": [[0.1, 0.2, 0.3], [0.9, 0.9]]})
    assert (await serve("backtrack", engine, n=1)).texts == ["uno\n\ndos"]
    assert engine.asked[2].prefix is None


async def test_it_goes_back_as_often_as_rounds_say(serve: Any) -> None:
    engine = Scripted(
        {"draft": [FIRST, "zwei\n\ndrei", "tres"], "prm": [[0.9, 0.1, 0.1], [0.9, 0.9, 0.2], [0.9, 0.9, 0.9]]}
    )
    assert (await serve("backtrack", engine, n=1, rounds=3)).texts == ["one\n\nzwei\n\ntres"]


async def test_the_whole_answer_keeps_within_the_clients_limit(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": [FIRST, "zwei\n\nvier"], "prm": [[0.9, 0.1, 0.1], [0.9, 0.9, 0.9]]})
    await serve("backtrack", engine, ask(max_tokens=9, min_tokens=4), n=1)
    sampling = engine.asked[2].chat.sampling
    used = engine.asked[2].prefix.draft.n_tokens
    assert used > 0
    assert (sampling.max_tokens, sampling.min_tokens) == (9 - used, 4 - used)


async def test_an_engine_without_tokens_is_cut_by_text(serve: Any) -> None:
    engine = Scripted({"draft": [Draft(FIRST, n_tokens=6), "zwei\n\ndrei"], "prm": [[0.9, 0.1, 0.1], [0.9, 0.9, 0.9]]})
    assert (await serve("backtrack", engine, n=1)).texts == ["one\n\nzwei\n\ndrei"]


async def test_tools_and_structured_output_turn_it_off(serve: Any, ask: Any) -> None:
    call = Draft("", "tool_calls", (ToolCall("1", "look", "{}"),), n_tokens=3)
    served = await serve("backtrack", Scripted({"draft": [call]}))
    assert served.outcome.answers[0].tool_calls == call.tool_calls
    question = replace(ask(), format=Format("json_object"))
    assert (await serve("backtrack", Scripted({"draft": ["{}"]}), question)).texts == ["{}"]


async def test_the_answer_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"draft": [FIRST, "zwei\n\ndrei"], "prm": [[0.9, 0.1, 0.1]]}
    gate = Gated(Scripted(script), holds=lambda op, span: isinstance(op, Steps) and "steps[" in span.key)
    served = await serve("backtrack", gate, n=1, budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == ([FIRST], "deadline", 1)
    served = await serve("backtrack", Scripted(script), n=1, budget=Budget(calls=1))
    assert (served.texts, served.outcome.stopped) == ([FIRST], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1000


async def test_accuracy_and_cost_follow_the_place_of_the_first_error(serve: Any) -> None:
    """With a perfect locator an answer of d steps, wrong first at step j, is saved if one of n tails is right."""
    depth, skill, n = 4, 0.7, 3
    right = calls = tokens = 0
    for i in range(RUNS):
        served = await serve("backtrack", engine := Chain(depth, skill), f"question {i}", seed=i, n=n)
        right += engine.is_right(served.texts[0])
        calls += served.outcome.bill.phases["draft"].calls
        tokens += served.outcome.bill.total.completion
    firsts = [skill**j * (1 - skill) for j in range(depth)]
    law = skill**depth + sum(first * (1 - (1 - skill ** (depth - j)) ** n) for j, first in enumerate(firsts))
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
    assert abs(calls / RUNS - (1 + n * sum(firsts))) < 0.2
    assert tokens < 0.85 * calls * WHOLE


WHOLE = 4 * 3 + 3 + 1
"""Tokens of an answer of four steps: three words each, the breaks, the box."""


async def test_a_locator_that_knows_nothing_is_held_back_by_the_gate(serve: Any) -> None:
    """Rewards of a coin: what replaces an answer is no better than it, and no worse."""
    right = 0
    for i in range(RUNS):
        served = await serve("backtrack", engine := Chain(2, 0.7, 0.5), f"question {i}", seed=i, n=1)
        right += engine.is_right(served.texts[0])
    assert abs(right / RUNS - 0.49) < 4 * 0.5 / RUNS**0.5 + 0.01
