"""Thinking longer: what is dropped and inserted, limits, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Format, Tool
from strop.strategies.kit.errors import ContextTooLong
from strop.strategies.kit.events import Committed
from strop.strategies.kit.ops import Generate, Generated, Op, Result
from strop.strategies.kit.span import Span
from strop.strategies.testing import Gated, Scripted, Simulated


def thought(text: str) -> Draft:
    """Thinking that the model ended."""
    return Draft(text, "stop", n_tokens=0, stop_reason="</think>")


class Reasoner(Simulated):
    """A simulated model whose drafts are thoughts: where the end of thinking is a stop string, it ends each there."""

    async def __call__(self, op: Op, span: Span) -> Result:
        result = await super().__call__(op, span)
        if isinstance(op, Generate) and isinstance(result, Generated) and "</think>" in op.chat.sampling.stop:
            drafts = [replace(d, stop_reason="</think>") if d.finish == "stop" else d for d in result.drafts]
            return replace(result, drafts=tuple(drafts))
        return result


async def test_the_end_of_thinking_is_dropped_and_the_model_goes_on(serve: Any) -> None:
    engine = Scripted({"draft": [thought("<think>so 4"), thought(" hm"), " yes</think>\\boxed{4}"]})
    served = await serve("think_longer", engine, waits=2)
    assert served.texts == ["<think>so 4\nWait hm\nWait yes</think>\\boxed{4}"]
    assert [op.chat.sampling.stop for op in engine.asked if isinstance(op, Generate)] == [
        ("</think>",),
        ("</think>",),
        (),
    ]
    assert served.notes["waits"] == 2


async def test_inserted_words_are_flagged_and_billed(serve: Any) -> None:
    engine = Scripted({"draft": [thought("<think>so 4"), " yes</think>4"]})
    served = await serve("think_longer", engine, waits=1)
    [answer] = served.outcome.answers
    assert [("".join(answer.tokens.texts[a:b])) for a, b in answer.injected] == ["\nWait"]
    assert served.outcome.bill.total.injected == answer.n_injected


async def test_a_model_that_does_not_think_is_left_alone(serve: Any) -> None:
    engine = Scripted({"draft": ["just 4"]})
    served = await serve("think_longer", engine, waits=3)
    assert (served.texts, served.notes["waits"], len(engine.asked)) == (["just 4"], 0, 1)


async def test_another_stop_than_the_end_of_thinking_is_the_end(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": [Draft("<think>so", "stop", n_tokens=0, stop_reason="END")]})
    assert (await serve("think_longer", engine, ask(stop=("END",)))).texts == ["<think>so"]
    assert engine.asked[0].chat.sampling.stop == ("END", "</think>")  # type: ignore[union-attr]


async def test_another_end_may_be_named(serve: Any) -> None:
    done = Draft("so", "stop", n_tokens=0, stop_reason="[/THINK]")
    engine = Scripted({"draft": [done, " 4"]})
    assert (await serve("think_longer", engine, waits=1, end="[/THINK]")).texts == ["so\nWait 4"]


@pytest.mark.parametrize("shape", ["json", "tools"])
async def test_tools_and_structured_output_are_left_alone(serve: Any, ask: Any, shape: str) -> None:
    question = replace(ask(), format=Format("json_object")) if shape == "json" else replace(ask(), tools=(Tool("x"),))
    engine = Scripted({"draft": [thought("{}")]})
    served = await serve("think_longer", engine, question)
    assert (served.texts, served.notes["why"]) == (["{}"], "tools or structured output")


async def test_the_clients_limit_bounds_the_whole_turn(serve: Any, ask: Any) -> None:
    for limit in (5, 20, 47, 80):
        served = await serve("think_longer", Reasoner(length=20), ask(max_tokens=limit), waits=4, seed=1)
        assert served.outcome.answers[0].n_tokens <= limit
        assert served.outcome.stopped == "done"


async def test_a_full_context_ends_it_with_what_was_thought(serve: Any) -> None:
    engine = Scripted({"draft": [thought("<think>so 4"), ContextTooLong(9, 8)]})
    served = await serve("think_longer", engine)
    assert (served.texts, served.outcome.answers[0].finish) == (["<think>so 4"], "length")


async def test_a_context_that_is_full_at_the_last_stretch_keeps_what_was_streamed(serve: Any) -> None:
    engine = Scripted({"draft": [thought("<think>so 4"), ContextTooLong(9, 8)]})
    served = await serve("think_longer", engine, waits=1)
    assert (served.texts, served.outcome.answers[0].finish) == (["<think>so 4\nWait"], "length")


async def test_the_last_stretch_is_streamed_with_all_before_it(serve: Any) -> None:
    engine = Scripted({"draft": [thought("<think>so"), " yes</think>4"]})
    served = await serve("think_longer", engine, waits=1)
    assert "".join(e.delta.text for e in served.events if isinstance(e, Committed)) == served.texts[0]


async def test_what_was_thought_is_served_unfinished_when_time_or_budget_ends(serve: Any) -> None:
    gate = Gated(Scripted({"draft": [thought("<think>so 4"), "x"]}), holds=lambda op, span: gate.started > 1)
    served = await serve("think_longer", gate, budget=Budget(seconds=0.2))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["<think>so 4"], "deadline", 1)
    engine = Scripted({"draft": [thought("<think>so 4"), "x"]})
    spent = await serve("think_longer", engine, budget=Budget(calls=1))
    assert (spent.texts, spent.outcome.stopped, spent.outcome.answers[0].finish) == (
        ["<think>so 4"],
        "budget",
        "length",
    )


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 500


@pytest.mark.parametrize("waits", [1, 3])
async def test_every_wait_is_a_revision(serve: Any, waits: int) -> None:
    law, keeps, repairs = 0.5, 0.9, 0.4
    for _ in range(waits):
        law = law * keeps + (1 - law) * repairs
    engine, right = Reasoner(0.5, confidence=keeps, insight=repairs, length=8), 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("think_longer", engine, question, waits=waits, seed=i)
        right += engine.brain.is_right(question, served.texts[0])
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5


async def test_the_cost_is_one_generation_more_than_waits(serve: Any) -> None:
    for waits in (1, 4):
        bill = (await serve("think_longer", Reasoner(), waits=waits)).outcome.bill
        assert bill.total.calls == waits + 1
        assert bill.discarded == 0
