"""How a run ends: done, budget, deadline, gone, error; and what it is billed."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from strop.strategies.kit import Budget, Chat, Context, Draft, Request, run
from strop.strategies.kit.errors import BadRequest, BudgetSpent, DeadlinePassed, EngineError
from strop.strategies.kit.events import Event, Finished, OpDone, Started
from strop.strategies.kit.types import Usage
from strop.strategies.testing import Gated, Scripted, Simulated


async def two_steps(ctx: Context, question: Chat) -> Draft:
    [draft] = await ctx.generate(question)
    ctx.keep(draft)
    [better] = await ctx.generate(question.then(draft.message, tag="revise"))
    return better


def revising(op: Any, span: Any) -> bool:
    return bool(op.tag == "revise")


async def test_a_run_that_ends_by_itself_is_done(serve: Any) -> None:
    served = await serve(two_steps, Scripted({"draft": ["one"], "revise": ["two words"]}))
    assert served.texts == ["two words"]
    assert (served.outcome.stopped, served.outcome.degraded, served.outcome.error) == ("done", None, None)
    assert isinstance(served.events[0], Started)
    assert served.outcome.bill.phases["draft"].completion == 1
    assert served.outcome.bill.total.completion == 3
    assert served.outcome.bill.discarded == 1


async def test_the_deadline_cancels_calls_in_flight_and_serves_the_kept_draft(serve: Any) -> None:
    gate = Gated(Scripted({"draft": ["kept"], "revise": ["late"]}), holds=revising)
    served = await serve(two_steps, gate, budget=Budget(seconds=0.05))
    assert served.texts == ["kept"]
    assert (served.outcome.stopped, served.outcome.degraded) == ("deadline", "kept")
    assert (gate.cancelled, gate.in_flight) == (1, 0)
    assert served.ops[-1].error == "cancelled"
    assert 0.05 <= served.outcome.bill.seconds < 1.0


async def test_finished_drafts_that_were_never_compared_are_served_when_nothing_was_kept(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        drafts = await ctx.generate(question, n=3)
        await ctx.score(question, drafts)
        raise AssertionError

    gate = Gated(Scripted({"draft": ["a", "the longest one", "b c"]}), holds=lambda op, _: op.kind == "score")
    served = await serve(body, gate, budget=Budget(seconds=0.05))
    assert served.texts == ["the longest one"]
    assert (served.outcome.stopped, served.outcome.degraded) == ("deadline", "unselected")


async def test_a_short_finished_draft_is_better_than_a_long_unfinished_one(serve: Any) -> None:
    drafts = [Draft("cut off in the middle of", "length", n_tokens=6), Draft("short", n_tokens=1)]
    gate = Gated(Scripted({"draft": drafts}), holds=lambda op, _: op.kind == "score")

    async def body(ctx: Context, question: Chat) -> Draft:
        await ctx.score(question, await ctx.generate(question, n=2))
        raise AssertionError

    assert (await serve(body, gate, budget=Budget(seconds=0.05))).texts == ["short"]


async def test_unfinished_words_are_better_than_none(serve: Any) -> None:
    served = await serve("direct", Simulated(length=4000, pace=0.002), budget=Budget(seconds=0.08))
    [answer] = served.outcome.answers
    assert (served.outcome.stopped, served.outcome.degraded) == ("deadline", "partial")
    assert answer.finish == "length"
    assert 0 < answer.n_tokens < 2000
    assert served.outcome.bill.total.completion == answer.n_tokens


async def test_a_deadline_before_the_first_token_is_an_error(serve: Any) -> None:
    gate = Gated(Scripted({"draft": ["late"]}))
    events: list[Event] = []
    with pytest.raises(DeadlinePassed, match=r"0\.02 seconds"):
        await serve("direct", gate, budget=Budget(seconds=0.02), observe=(events.append,))
    assert isinstance(events[-1], Finished)
    assert events[-1].outcome.stopped == "deadline"
    assert gate.cancelled == 1


async def test_an_engine_that_fails_late_costs_the_refinement_not_the_answer(serve: Any) -> None:
    engine = Scripted({"draft": ["kept"], "revise": [EngineError("out of memory")]})
    served = await serve(two_steps, engine, failing=True)
    assert served.texts == ["kept"]
    assert (served.outcome.stopped, served.outcome.degraded) == ("error", "kept")
    assert served.outcome.error == "EngineError: out of memory"


async def test_an_engine_that_fails_at_once_raises_its_error(serve: Any) -> None:
    events: list[Event] = []
    with pytest.raises(EngineError, match="down"):
        await serve("direct", Scripted({"draft": [EngineError("down")]}), observe=(events.append,))
    assert isinstance(events[-1], Finished)
    assert events[-1].outcome.error == "EngineError: down"


async def test_a_bad_request_is_never_hidden_by_a_kept_draft(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        ctx.keep(Draft("kept"))
        raise BadRequest("no such scorer", param="strop.by")

    with pytest.raises(BadRequest, match="no such scorer"):
        await serve(body, Scripted({}))


async def test_a_wrong_knob_is_refused_before_anything_happens(serve: Any) -> None:
    engine = Scripted({})
    with pytest.raises(BadRequest):
        await serve("direct", engine, no_such_knob=1)
    assert engine.asked == []


async def test_a_budget_that_allows_nothing_is_an_error(serve: Any) -> None:
    with pytest.raises(BudgetSpent):
        await serve("direct", Scripted({"draft": ["a"]}), budget=Budget(tokens=0))


async def test_a_draft_cut_by_the_budget_says_so_and_one_cut_by_the_client_does_not(serve: Any, ask: Any) -> None:
    served = await serve("direct", Scripted({"draft": ["one two three"]}), budget=Budget(tokens=2))
    assert (served.texts, served.outcome.stopped) == (["one two"], "budget")
    assert served.outcome.answers[0].clipped
    served = await serve("direct", Scripted({"draft": ["one two three"]}), ask(max_tokens=2))
    assert (served.texts, served.outcome.stopped) == (["one two"], "done")
    assert not served.outcome.answers[0].clipped


async def test_a_client_that_leaves_is_billed_for_what_was_done(ask: Any) -> None:
    from strop.strategies import CATALOGUE

    events: list[Event] = []
    gate = Gated(Scripted({"draft": ["three words done"]}), when="after")
    left = False
    async with anyio.create_task_group() as group:

        async def request() -> None:
            nonlocal left
            try:
                await run(Request(CATALOGUE["direct"], ask()), gate, observe=[events.append])
            except anyio.get_cancelled_exc_class():
                left = True
                raise

        group.start_soon(request)
        await gate.arrivals(1)
        await anyio.sleep(0.005)
        group.cancel_scope.cancel()
    assert left, "the cancellation goes on"
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.outcome.stopped, finished.outcome.answers) == ("gone", ())
    [done] = [event for event in events if isinstance(event, OpDone)]
    assert done.error == "cancelled"
    assert finished.outcome.bill.total == done.usage
    assert finished.outcome.bill.total.completion == 3
    assert finished.outcome.bill.discarded == 3
    assert gate.cancelled == 1


async def test_a_strategy_that_does_not_rank_is_run_once_per_choice(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        return (await ctx.generate(question))[0]

    engine = Scripted({"draft": ["a", "b", "c"]})
    served = await serve(body, engine, choices=3)
    assert served.texts == ["a", "b", "c"]
    assert engine.keys == [f"body/1.choice[{i}]#1" for i in range(3)]


async def test_a_ranking_fills_the_choices_from_one_run(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> list[Draft]:
        return await ctx.generate(question, n=3)

    served = await serve(body, Scripted({"draft": ["a", "b", "c"]}), choices=2, ranked=True)
    assert served.texts == ["a", "b"]


async def test_money_is_unknown_when_a_model_has_no_price(serve: Any, ask: Any) -> None:
    from strop.strategies import CATALOGUE

    def price(usage: Usage, role: str) -> float | None:
        return usage.completion * 0.01

    assert (await serve("direct", Scripted({"draft": ["a b"]}))).outcome.bill.usd is None
    outcome = await run(Request(CATALOGUE["direct"], ask()), Scripted({"draft": ["a b"]}), price=price)
    assert outcome.bill.usd == pytest.approx(0.02)


async def test_a_strategy_that_returns_no_draft_is_an_error(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> list[Draft]:
        return []

    with pytest.raises(AssertionError, match="'body' returned no draft"):
        await serve(body, Scripted({}))
