"""Time, cancellation, counting and faults of the simulated engine."""

from __future__ import annotations

import json
from time import perf_counter

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.server.engine.base import Counters, Engine
from strop.server.engine.simulated import SimulatedEngine
from strop.server.engine.simulated.faults import parsed
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import BadRequest, EngineError, EngineOverloaded, EngineUnavailable
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Score
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.types import Chat, Draft, Message, Prefix, Sampling, Tool, Usage

WHY = Chat((Message("user", "Why?"),), Sampling(seed=1))
LONG = WHY.but(min_tokens=400, max_tokens=400)


async def generated(engine: SimulatedEngine, op: Generate, span: Span | None = None) -> Generated:
    result = await engine.perform(op, span or Span("a#1"))
    assert isinstance(result, Generated)
    return result


def counted(engine: Engine) -> tuple[int, int, int, int]:
    counters = engine.counters()
    return counters.prompt, counters.cached, counters.completion, counters.calls


def billed(usage: Usage) -> tuple[int, int, int, int]:
    return usage.prompt, usage.cached, usage.completion, usage.calls


def test_it_is_an_engine_with_a_reason_for_everything_it_lacks() -> None:
    engine: Engine = SimulatedEngine(name="demo")
    assert engine.model.name == "demo"
    missing = set(Capability) - engine.capabilities.offers
    assert missing == {
        Capability.HIDDEN_STATES,
        Capability.LOGIT_EDITS,
        Capability.PRM,
        Capability.ADAPTERS,
        Capability.PRIORITIES,
    }
    assert missing == set(engine.capabilities.reasons)


async def test_it_is_ready_while_it_runs() -> None:
    engine = SimulatedEngine()
    assert not engine.health().ready
    async with engine.running():
        assert engine.health().ready
    assert not engine.health().ready


async def test_an_op_that_is_no_engines_business_is_refused() -> None:
    with pytest.raises(BadRequest):
        await SimulatedEngine().perform(Score(WHY, ()), Span("a#1"))


# ------------------------------------------------------------------------------------- time and deltas


async def test_latency_and_speed_are_what_was_asked_for() -> None:
    engine = SimulatedEngine(latency=0.05, tokens_per_second=1000)
    began = perf_counter()
    first: list[float] = []
    span = Span("a#1", live=lambda _: first.append(perf_counter() - began))
    result = await generated(engine, Generate(WHY.but(min_tokens=100, max_tokens=100), 3), span)
    took = perf_counter() - began
    assert first[0] >= 0.05
    assert 0.148 <= took < 0.6
    assert result.usage.seconds == pytest.approx(took, abs=0.02)


@pytest.mark.parametrize("speed", [0.0, 5000.0])
@pytest.mark.parametrize("prefix", [None, Prefix(Draft("So far"), " and"), Prefix(Draft(""), "")])
async def test_deltas_join_to_what_the_op_adds_to_the_draft(speed: float, prefix: Prefix | None) -> None:
    words: dict[int, str] = {}

    def live(delta: Delta) -> None:
        words[delta.index] = words.get(delta.index, "") + delta.text

    engine = SimulatedEngine(tokens_per_second=speed)
    result = await generated(engine, Generate(WHY, 2, prefix), Span("a#1", live=live))
    known = prefix.draft.text + prefix.inject if prefix else ""
    assert [known + words[0], known + words[1]] == [d.text for d in result.drafts]


async def test_slots_make_drafts_wait_their_turn() -> None:
    engine = SimulatedEngine(latency=0.05, slots=1)
    began = perf_counter()
    waiting: list[Counters] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(engine.perform, Generate(WHY), Span("a#1"))
        await anyio.sleep(0.02)
        waiting.append(engine.counters())
    assert perf_counter() - began >= 0.15
    assert (waiting[0].running, waiting[0].waiting) == (1, 2)
    assert (engine.counters().running, engine.counters().waiting) == (0, 0)


# --------------------------------------------------------------------------- cancellation and counting


async def test_cancelling_stops_the_bill_within_one_token_and_leaves_the_words_so_far() -> None:
    engine, span = SimulatedEngine(tokens_per_second=200), Span("a#1")
    with anyio.move_on_after(0.1):
        await engine.perform(Generate(LONG, 2), span)
    at_once = span.receipt.usage
    await anyio.sleep(0.05)
    assert span.receipt.usage == at_once
    assert billed(at_once) == counted(engine)
    assert engine.counters().running == 0
    assert 2 <= at_once.completion <= 2 * 22
    partials = span.receipt.partials()
    assert [d.finish for d in partials] == ["length", "length"]
    assert sum(d.n_tokens for d in partials) == at_once.completion
    assert all("".join(d.tokens.texts) == d.text for d in partials)


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(0.0005, 0.02), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None)
def test_counters_are_the_sum_of_all_bills_whoever_was_cancelled(plan: list[tuple[int, float, bool]]) -> None:
    async def together() -> tuple[SimulatedEngine, list[Span]]:
        engine = SimulatedEngine(tokens_per_second=20_000, slots=4, faults="crash:0.2,overload:0.1,garbage:0.1")
        spans = [Span(f"a#{i}") for i in range(len(plan))]

        async def one(i: int) -> None:
            n, patience, weighs = plan[i]
            with anyio.move_on_after(patience):
                try:
                    await engine.perform(Logprobs(WHY, (Draft("x y"),)) if weighs else Generate(LONG, n), spans[i])
                except EngineError:
                    return

        async with anyio.create_task_group() as tasks:
            for i in range(len(plan)):
                tasks.start_soon(one, i)
        return engine, spans

    engine, spans = anyio.run(together)
    total = sum((span.receipt.usage for span in spans), Usage())
    assert billed(total) == counted(engine)
    assert (engine.counters().running, engine.counters().waiting) == (0, 0)


async def test_drafts_of_one_op_share_its_prompt_which_is_billed_once() -> None:
    engine = SimulatedEngine()
    result = await generated(engine, Generate(WHY, 4))
    usage = result.usage
    assert usage.calls == 4
    assert usage.prompt == result.prompt_tokens > 0
    assert usage.cached == 0
    assert billed(usage) == counted(engine)


async def test_a_tool_call_is_billed_by_its_tokens() -> None:
    chat = Chat((Message("user", "Go"),), tools=(Tool("go", parameters={"type": "object"}),))
    result = await generated(SimulatedEngine(), Generate(chat))
    assert result.usage.completion == result.drafts[0].n_tokens > 0
    assert json.loads(result.drafts[0].tool_calls[0].arguments) == {}


# ---------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("text", ["explode:0.1", "crash", "crash:2", "crash:0.6,hang:0.6", "crash:x"])
def test_a_fault_that_does_not_exist_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match=r"fault|float"):
        SimulatedEngine(faults=text)


def test_faults_are_read_in_order() -> None:
    assert parsed(" crash:0.1, hang:0.2 ") == {"crash": 0.1, "hang": 0.2}
    assert parsed("") == {}


async def test_a_crash_comes_in_the_middle_and_keeps_the_words_so_far() -> None:
    engine, span = SimulatedEngine(faults="crash:1"), Span("a#1")
    whole = (await generated(SimulatedEngine(), Generate(WHY))).drafts[0]
    with pytest.raises(EngineError):
        await engine.perform(Generate(WHY), span)
    (partial,) = span.receipt.partials()
    assert partial.text
    assert whole.text.startswith(partial.text)
    assert partial.n_tokens == whole.n_tokens // 2 == span.receipt.usage.completion


async def test_a_dead_engine_is_unavailable_until_it_revives() -> None:
    engine = SimulatedEngine(faults="die:0.5", revive_after=0.1)
    async with engine.running():
        died = False
        for seed in range(40):
            if not died:
                try:
                    await engine.perform(Generate(WHY.but(seed=seed)), Span("a#1"))
                except EngineError:
                    died = True
        assert died
        assert not engine.health().ready
        with pytest.raises(EngineUnavailable):
            await engine.perform(Generate(WHY), Span("a#1"))
        await anyio.sleep(0.12)
        assert engine.health().ready


async def test_a_hang_lasts_until_the_caller_leaves_and_bills_the_prompt() -> None:
    engine, span = SimulatedEngine(faults="hang:1"), Span("a#1")
    with anyio.move_on_after(0.05) as scope:
        await engine.perform(Generate(WHY), span)
    assert scope.cancelled_caught
    assert (span.receipt.usage.completion, span.receipt.usage.calls) == (0, 1)
    assert engine.counters().running == 0


async def test_garbage_is_text_without_sense_and_overload_costs_nothing() -> None:
    result = await generated(SimulatedEngine(skill=1.0, faults="garbage:1"), Generate(WHY))
    assert "boxed" not in result.drafts[0].text
    assert result.drafts[0].text
    span = Span("a#1")
    with pytest.raises(EngineOverloaded) as refused:
        await SimulatedEngine(faults="overload:1").perform(Generate(WHY), span)
    assert refused.value.retry_after == 1.0
    assert span.receipt.usage == Usage()


async def test_slow_takes_at_least_half_a_second() -> None:
    began = perf_counter()
    await generated(SimulatedEngine(faults="slow:1"), Generate(WHY))
    assert perf_counter() - began >= 0.5


async def test_faults_depend_on_seed_and_place_only() -> None:
    async def outcomes() -> list[bool]:
        engine, failed = SimulatedEngine(faults="crash:0.4"), []
        for seed in range(30):
            try:
                await engine.perform(Generate(WHY.but(seed=seed)), Span("a#1"))
                failed.append(False)
            except EngineError:
                failed.append(True)
        return failed

    first = await outcomes()
    assert first == await outcomes()
    assert 4 < sum(first) < 22
