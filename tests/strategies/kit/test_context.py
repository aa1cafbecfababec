"""The verbs of a strategy."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from strop.strategies.kit import Budget, Chat, Context, Draft, Prefix
from strop.strategies.kit.context import Best
from strop.strategies.kit.errors import BudgetSpent, EngineError
from strop.strategies.kit.events import Committed, Kept, OpDone, OpStarted
from strop.strategies.kit.ops import Generate, Op, Result, Scored
from strop.strategies.kit.span import Span, mix
from strop.strategies.testing import Gated, Scripted, Simulated


def generated(op: Op) -> Generate:
    assert isinstance(op, Generate)
    return op


# ---- generate ------------------------------------------------------------------------------------------------------


async def test_generate_overrides_sampling_and_sorts_what_it_wants(serve: Any, ask: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        return (await ctx.generate(question, temperature=0.5, top_p=None, want={"logprobs", "certainty"}))[0]

    engine = Scripted({"draft": ["4"]})
    await serve(body, engine, ask(top_p=0.9, max_tokens=5))
    op = generated(engine.asked[0])
    assert (op.chat.sampling.temperature, op.chat.sampling.top_p, op.chat.sampling.max_tokens) == (0.5, 0.9, 5)
    assert op.want == ("certainty", "logprobs")


async def test_drafts_know_their_place(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> list[Draft]:
        await ctx.generate(question)
        return await ctx.generate(question, n=2)

    served = await serve(body, Scripted({"draft": ["a", "b", "c"]}), choices=2, ranked=True)
    assert [d.span for d in served.outcome.answers] == ["body#2[0]", "body#2[1]"]


async def test_equal_questions_get_unequal_seeds_and_the_same_ones_next_time(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        await ctx.generate(question)
        return (await ctx.map(lambda _: ctx.generate(question), range(2)))[0][0]

    seeds = []
    for _ in range(2):
        engine = Scripted({"draft": ["a", "b", "c"]})
        await serve(body, engine, seed=7)
        seeds.append([generated(op).chat.sampling.seed for op in engine.asked])
        assert seeds[-1] == [mix(7, key) for key in engine.keys]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 3


async def test_without_a_seed_none_is_made_up(serve: Any) -> None:
    engine = Scripted({"draft": ["a"]})
    await serve("direct", engine)
    assert generated(engine.asked[0]).chat.sampling.seed is None


async def test_a_result_of_the_wrong_kind_is_an_engine_error(serve: Any) -> None:
    async def confused(op: Op, span: Span) -> Result:
        return Scored((1.0,))

    with pytest.raises(EngineError, match="answered Scored to Generate"):
        await serve("direct", confused)


async def test_live_words_are_committed_only_by_a_final_generation(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        await ctx.generate(question)
        return (await ctx.generate(question, final=True))[0]

    served = await serve(body, Scripted({"draft": ["hidden words", "shown words"]}))
    assert "".join(e.delta.text for e in served.events if isinstance(e, Committed)) == "shown words"


async def test_every_op_is_announced_and_settled_under_its_key(serve: Any) -> None:
    served = await serve("direct", Scripted({"draft": ["a"]}))
    started = [e.key for e in served.events if isinstance(e, OpStarted)]
    done = [e.key for e in served.events if isinstance(e, OpDone)]
    assert started == done == ["direct#1"]


async def test_a_prefix_is_part_of_the_turn_it_continues(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        [draft] = await ctx.generate(question, max_tokens=2)
        return (await ctx.generate(question, prefix=Prefix(draft, " Wait!")))[0]

    served = await serve(body, Scripted({"draft": ["one two three", " four"]}))
    [answer] = served.outcome.answers
    assert answer.text == "one two Wait! four"
    assert (answer.n_tokens, answer.injected, answer.n_injected) == (4, ((2, 3),), 1)
    assert served.outcome.bill.total.injected == 1
    assert served.outcome.bill.total.completion == 3


# ---- map -----------------------------------------------------------------------------------------------------------


async def test_map_gives_results_in_item_order_and_keys_by_place(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        async def one(i: int) -> tuple[int, Draft]:
            await anyio.sleep(0.002 * (3 - i))
            return i, (await ctx.generate(question))[0]

        pairs = await ctx.map(one, range(3), name="try")
        assert [i for i, _ in pairs] == [0, 1, 2]
        return pairs[0][1]

    engine = Scripted({"draft": ["a", "b", "c"]})
    await serve(body, engine)
    assert engine.keys == ["body/1.try[2]#1", "body/1.try[1]#1", "body/1.try[0]#1"]


async def test_branches_get_equal_shares_of_the_budget(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        drafts = await ctx.map(lambda _: ctx.generate(question), range(4))
        return drafts[0][0]

    engine = Simulated(length=400)
    served = await serve(body, engine, budget=Budget(tokens=42))
    limits = sorted(generated(op.op).chat.sampling.max_tokens or 0 for op in served.ops)
    assert limits == [10, 10, 11, 11]
    assert served.outcome.stopped == "budget"
    assert served.outcome.bill.total.completion == 42


async def test_an_exhausted_run_ends_the_same_way_whatever_the_timing(serve: Any, jittered: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        async def one(i: int) -> Draft:
            [draft] = await ctx.generate(question, max_tokens=10 + 7 * i)
            ctx.keep(draft)
            [draft] = await ctx.generate(question.then(draft.message, tag="again"), max_tokens=20)
            ctx.keep(draft, score=float(draft.n_tokens % 3))
            return draft

        drafts = await ctx.map(one, range(6))
        scores = await ctx.score(question, drafts)
        return max(zip(scores, drafts, strict=True), key=lambda pair: pair[0] or 0.0)[1]

    for budget in (Budget(tokens=130), Budget(tokens=40), Budget(calls=9), Budget()):
        runs = [await serve(body, jittered(Simulated(), i), seed=3, budget=budget) for i in range(8)]
        ends = {(run.outcome.answers, run.outcome.stopped, run.outcome.bill.total.completion) for run in runs}
        assert len(ends) == 1, budget


async def test_a_branch_that_spends_its_share_ends_alone(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        async def one(i: int) -> Draft:
            for _ in range(3 if i == 0 else 1):
                [draft] = await ctx.generate(question)
            return draft

        drafts = await ctx.map(one, range(3))
        assert len(drafts) == 2
        return drafts[-1]

    served = await serve(body, Scripted({"draft": ["a", "b", "c", "d", "e"]}), budget=Budget(calls=3))
    assert served.texts == ["c"]
    assert served.outcome.stopped == "budget"


async def test_the_budget_is_spent_only_when_it_is_in_all_branches(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        async def greedy(_: int) -> Draft:
            while True:
                await ctx.generate(question)

        with pytest.raises(BudgetSpent):
            await ctx.map(greedy, range(2))
        raise BudgetSpent("calls")

    served = await serve(body, Simulated(), budget=Budget(calls=4))
    assert (served.outcome.stopped, served.outcome.degraded) == ("budget", "unselected")
    assert served.outcome.bill.total.calls == 4


async def test_what_branches_spend_is_paid_by_the_parent(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        await ctx.map(lambda _: ctx.generate(question), range(3))
        return (await ctx.generate(question))[0]

    with_room = await serve(body, Simulated(), budget=Budget(calls=4))
    assert with_room.outcome.stopped == "done"
    without = await serve(body, Simulated(), budget=Budget(calls=3))
    assert (without.outcome.stopped, without.outcome.degraded) == ("budget", "unselected")


async def test_until_does_not_depend_on_timing(serve: Any, jittered: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        found = await ctx.map(
            lambda _: ctx.generate(question),
            range(8),
            until=lambda results: sum("42" in r[0].text for r in results) == 2,
        )
        return found[-1][0]

    question = "What is 20 + 22?"
    runs = [await serve(body, jittered(Simulated(), i), question, seed=5) for i in range(8)]
    assert len({run.outcome.answers for run in runs}) == 1


async def test_an_error_in_one_branch_cancels_the_others_and_comes_out_unwrapped(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        async def one(i: int) -> list[Draft]:
            if i == 1:
                await gate.arrivals(2)
                raise ValueError("branch one")
            return await ctx.generate(question)

        return (await ctx.map(one, range(3)))[0][0]

    gate = Gated(Scripted({"draft": ["a", "b"]}))
    with pytest.raises(ValueError, match="branch one"):
        await serve(body, gate)
    assert (gate.cancelled, gate.in_flight) == (2, 0)


async def test_mapping_over_nothing_gives_nothing(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        assert await ctx.map(lambda _: ctx.generate(question), []) == []
        return (await ctx.generate(question))[0]

    assert (await serve(body, Scripted({"draft": ["a"]}))).texts == ["a"]


# ---- keep and commit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "old", "wins"),
    [
        ((0.1, (2,)), (None, (9,)), True),
        ((None, (9,)), (0.1, (2,)), False),
        ((0.5, (2,)), (0.4, (1,)), True),
        ((0.5, (2,)), (0.5, (1,)), False),
        ((0.5, (1,)), (0.5, (2,)), True),
        ((None, (2,)), (None, (1,)), True),
        ((None, (1,)), (None, (2,)), False),
    ],
)
def test_scored_beats_unscored_higher_beats_lower_and_place_breaks_ties(new: Any, old: Any, wins: bool) -> None:
    def best(score: float | None, order: tuple[int, ...]) -> Best:
        return Best(Draft("x"), score, order)

    assert best(*new).beats(best(*old)) is wins
    assert best(*new).beats(None)


async def test_only_a_better_draft_is_reported_as_kept(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        for text, score in [("a", None), ("b", 0.5), ("c", 0.4), ("d", 0.9)]:
            ctx.keep(Draft(text), score)
        return Draft("d")

    served = await serve(body, Scripted({}))
    assert [e.draft.text for e in served.events if isinstance(e, Kept)] == ["a", "b", "d"]


async def test_an_answer_must_start_with_what_was_committed(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        ctx.commit("It is ")
        return Draft("Four.")

    served = await serve(body, Scripted({}), failing=True)
    assert served.outcome.stopped == "error"
    assert "does not start with what it committed" in (served.outcome.error or "")
    assert served.texts == ["It is "]


async def test_nothing_is_committed_when_several_choices_are_wanted(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        ctx.commit("It is ")
        return Draft("Four.")

    served = await serve(body, Scripted({}), choices=2)
    assert served.texts == ["Four.", "Four."]
    assert not [e for e in served.events if isinstance(e, Committed)]


async def test_notes_are_kept_under_the_branch_that_made_them(serve: Any) -> None:
    async def body(ctx: Context, question: Chat) -> Draft:
        async def one(i: int) -> None:
            ctx.note(item=i)

        await ctx.map(one, range(2), name="look")
        return Draft("x")

    served = await serve(body, Scripted({}))
    noted = [(line.key, line.facts) for line in served.trace.lines if line.kind == "noted"]
    assert noted == [("body/1.look[0]", {"item": 0}), ("body/1.look[1]", {"item": 1})]
