"""Thinking less: the cap, what is inserted, limits, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Format, Tool
from strop.strategies.kit.errors import ContextTooLong
from strop.strategies.kit.events import Committed
from strop.strategies.kit.ops import Generate
from strop.strategies.testing import Gated, Scripted, Simulated

CUT = Draft("<think>and so on", "length", n_tokens=0)
CONCLUSION = "\nI have thought about this long enough; here is my answer.\n</think>\n\n"


async def test_thinking_that_does_not_end_is_ended(serve: Any) -> None:
    engine = Scripted({"draft": [CUT, "\\boxed{4}"]})
    served = await serve("think_less", engine, most=64)
    assert served.texts == ["<think>and so on" + CONCLUSION + "\\boxed{4}"]
    assert served.notes["forced"] is True
    first, second = engine.asked
    assert isinstance(first, Generate)
    assert isinstance(second, Generate)
    assert (first.chat.sampling.max_tokens, first.chat.sampling.stop) == (64, ("</think>",))
    assert (second.chat.sampling.max_tokens, second.chat.sampling.stop) == (None, ())


async def test_thinking_that_ends_in_time_is_not_concluded(serve: Any) -> None:
    ended = Draft("<think>so 4\n", "stop", n_tokens=0, stop_reason="</think>")
    served = await serve("think_less", Scripted({"draft": [ended, "\\boxed{4}"]}))
    assert served.texts == ["<think>so 4\n</think>\n\n\\boxed{4}"]
    assert served.notes["forced"] is False


async def test_an_answer_that_ends_before_the_cap_is_served_as_it_is(serve: Any) -> None:
    engine = Scripted({"draft": ["just 4"]})
    assert (await serve("think_less", engine)).texts == ["just 4"]
    assert len(engine.asked) == 1


async def test_inserted_words_are_flagged_and_billed(serve: Any) -> None:
    served = await serve("think_less", Scripted({"draft": [CUT, "4"]}))
    [answer] = served.outcome.answers
    assert ["".join(answer.tokens.texts[a:b]) for a, b in answer.injected] == [CONCLUSION]
    assert served.outcome.bill.total.injected == answer.n_injected


@pytest.mark.parametrize("shape", ["json", "tools"])
async def test_tools_and_structured_output_are_left_alone(serve: Any, ask: Any, shape: str) -> None:
    question = replace(ask(), format=Format("json_object")) if shape == "json" else replace(ask(), tools=(Tool("x"),))
    served = await serve("think_less", Scripted({"draft": [replace(CUT, text="{}")]}), question)
    assert (served.texts, served.notes["why"]) == (["{}"], "tools or structured output")


async def test_the_clients_limit_bounds_the_whole_turn(serve: Any, ask: Any) -> None:
    for limit in (10, 40, 90, 120, 400):
        served = await serve("think_less", Simulated(length=300), ask(max_tokens=limit), most=32, seed=1)
        assert served.outcome.answers[0].n_tokens <= limit
        assert served.outcome.stopped == "done"


async def test_a_full_context_ends_it_with_what_was_thought(serve: Any) -> None:
    served = await serve("think_less", Scripted({"draft": [CUT, ContextTooLong(9, 8)]}))
    assert (served.texts, served.outcome.answers[0].finish) == (["<think>and so on" + CONCLUSION], "length")


async def test_the_answer_is_streamed_with_the_thinking_before_it(serve: Any) -> None:
    served = await serve("think_less", Scripted({"draft": [CUT, "\\boxed{4}"]}))
    assert "".join(e.delta.text for e in served.events if isinstance(e, Committed)) == served.texts[0]


async def test_what_was_thought_is_served_when_time_or_budget_ends(serve: Any) -> None:
    gate = Gated(Scripted({"draft": [CUT, "x"]}), holds=lambda op, span: gate.started > 1)
    served = await serve("think_less", gate, budget=Budget(seconds=0.2))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["<think>and so on" + CONCLUSION], "deadline", 1)
    spent = await serve("think_less", Scripted({"draft": [CUT, "x"]}), budget=Budget(calls=1))
    assert (spent.texts, spent.outcome.stopped) == (["<think>and so on" + CONCLUSION], "budget")


async def test_a_budget_smaller_than_the_cap_is_no_reason_to_conclude(serve: Any) -> None:
    served = await serve("think_less", Simulated(length=300), most=64, budget=Budget(tokens=30))
    assert (served.outcome.stopped, served.outcome.bill.total.calls) == ("budget", 1)


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 500


@pytest.mark.parametrize(("length", "forced"), [(300, True), (8, False)])
async def test_where_thinking_tells_nothing_a_cap_costs_no_accuracy(serve: Any, length: int, forced: bool) -> None:
    engine, right = Simulated(0.4, length=length), 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("think_less", engine, question, most=16, seed=i)
        assert served.notes["forced"] is forced
        right += engine.brain.is_right(question, served.texts[0])
    assert abs(right / RUNS - 0.4) < 4 * (0.24 / RUNS) ** 0.5


@pytest.mark.parametrize("most", [16, 48])
async def test_the_cost_is_the_cap_the_inserted_words_and_the_answer(serve: Any, most: int) -> None:
    served = await serve("think_less", Scripted({"draft": [Draft("w " * most, "length"), "\\boxed{4}"]}), most=most)
    bill = served.outcome.bill.total
    assert (bill.calls, bill.completion, bill.injected) == (2, most + 1, len(CONCLUSION.split()) + 3)
