"""Against an honest upstream in vLLM's dialect: the remote engine gives what the engine behind the upstream gives."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest

from strop.server.engine.remote import RemoteEngine
from strop.server.engine.simulated import SimulatedEngine
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import BadRequest, EngineError, EngineOverloaded, MissingCapability
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Weighed
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.types import Chat, Draft, Format, Message, Prefix, Sampling, Tool, ToolChoice, Usage
from tests.server.engine.remote.vllm_stub import VllmStub

WHY = Chat((Message("user", "Why?"),), Sampling(seed=4))
LONG = WHY.but(max_tokens=400, min_tokens=400)
GO = Tool("go", "Goes.", {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]})


@pytest.fixture
async def upstream() -> AsyncIterator[VllmStub]:
    async with VllmStub().running() as running:
        yield running


@pytest.fixture
async def remote(upstream: VllmStub) -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine([upstream.stub.url], trust_env=False, timeout=10.0)
    async with engine.running():
        upstream.stub.asked.clear()
        yield engine


async def made(engine: RemoteEngine | SimulatedEngine, op: Generate, span: Span | None = None) -> Generated:
    result = await engine.perform(op, span or Span("a#1"))
    assert isinstance(result, Generated)
    return result


# --------------------------------------------------------------------------------------------- probing


async def test_probing_finds_what_vllm_can_do(remote: RemoteEngine) -> None:
    assert remote.model.name == "sim"
    assert remote.model.context == 32_768
    missing = set(Capability) - remote.capabilities.offers
    assert missing == {
        Capability.ENTROPY,
        Capability.CERTAINTY,
        Capability.HIDDEN_STATES,
        Capability.LOGIT_EDITS,
        Capability.PRM,
        Capability.ADAPTERS,
        Capability.PRIORITIES,
    }
    assert remote.counters().calls == 0


async def test_a_vllm_without_a_tool_parser_lacks_tools_but_not_forced_ones() -> None:
    async with VllmStub(auto_tools=False).running() as upstream:
        engine = RemoteEngine([upstream.stub.url], trust_env=False)
        async with engine.running():
            assert Capability.TOOLS not in engine.capabilities.offers
            assert Capability.FORCED_TOOLS in engine.capabilities.offers
            assert "refused" in engine.capabilities.why_not(Capability.TOOLS)


async def test_what_a_stripped_upstream_lacks_is_found_out() -> None:
    async with VllmStub().running() as upstream:
        for path in ("/tokenize", "/v1/completions"):
            del upstream.stub.handlers[path]
        engine = RemoteEngine([upstream.stub.url], trust_env=False)
        async with engine.running():
            missing = set(Capability) - engine.capabilities.offers
            assert {Capability.RAW_PROMPT, Capability.SCORE_TEXT} <= missing
            assert Capability.PREFIX in engine.capabilities.offers
            assert "/tokenize" in engine.capabilities.why_not(Capability.SCORE_TEXT)


async def test_without_probes_nothing_is_generated_at_the_start(upstream: VllmStub) -> None:
    engine = RemoteEngine([upstream.stub.url], trust_env=False, probe=False)
    async with engine.running():
        assert {a.method for a in upstream.stub.asked} == {"GET"}


# ------------------------------------------------------------------------------------------- generating


@pytest.mark.parametrize(
    "chat",
    [
        WHY,
        WHY.but(temperature=0.0),
        WHY.but(max_tokens=7),
        WHY.but(stop=("tion",)),
        WHY.but(top_logprobs=3, logit_bias=((833076, 5.0),)),
        Chat(prompt="What is 2+2?", sampling=Sampling(seed=2)),
        replace(WHY, format=Format("json_schema", "x", {"type": "object", "properties": {"a": {"type": "null"}}})),
        replace(WHY, format=Format("json_object")),
    ],
)
async def test_drafts_are_those_of_the_engine_behind(remote: RemoteEngine, chat: Chat) -> None:
    op = Generate(chat, 3, want=("logprobs", "tokens"))
    behind, here = await made(SimulatedEngine(), op), await made(remote, op)
    if chat.sampling.temperature == 0.0:
        assert len({d.text for d in here.drafts}) == 1
    for theirs, ours in zip(behind.drafts, here.drafts, strict=True):
        assert (ours.text, ours.finish, ours.stop_reason) == (theirs.text, theirs.finish, theirs.stop_reason)
        assert ours.tokens.ids == theirs.tokens.ids
        assert ours.tokens.texts == theirs.tokens.texts
        assert ours.tokens.logprobs == pytest.approx(theirs.tokens.logprobs)
        assert ours.n_tokens == theirs.n_tokens
        assert [[(t, p) for _, t, p in row] for row in ours.tokens.top] == [
            [(t, pytest.approx(p)) for _, t, p in row] for row in theirs.tokens.top
        ]


async def test_tool_calls_come_through(remote: RemoteEngine) -> None:
    chat = replace(WHY, tools=(GO,), tool_choice=ToolChoice("named", "go"))
    (ours,) = (await made(remote, Generate(chat))).drafts
    (theirs,) = (await made(SimulatedEngine(), Generate(chat))).drafts
    assert ours.tool_calls == theirs.tool_calls
    assert json.loads(ours.tool_calls[0].arguments)["to"]
    assert ours.n_tokens == theirs.n_tokens


async def test_deltas_join_to_what_the_op_adds_to_the_draft(remote: RemoteEngine) -> None:
    words = ["", ""]

    def live(delta: Delta) -> None:
        words[delta.index] += delta.text

    for prefix in (None, Prefix(Draft("So far"), ", and")):
        words[:] = ["", ""]
        result = await made(remote, Generate(WHY, 2, prefix), Span("a#1", live=live))
        known = prefix.draft.text + prefix.inject if prefix else ""
        assert [known + said for said in words] == [d.text for d in result.drafts]


# -------------------------------------------------------------------------------------------- prefixes


async def test_a_draft_is_continued_token_by_token(remote: RemoteEngine, upstream: VllmStub) -> None:
    (whole,) = (await made(remote, Generate(WHY, want=("tokens",)))).drafts
    (again,) = (await made(remote, Generate(WHY, 1, Prefix(whole.cut(9)), ("tokens",)))).drafts
    assert again.text == whole.text
    assert again.tokens.ids == whole.tokens.ids
    assert again.tokens.texts == whole.tokens.texts
    sent = upstream.stub.bodies("/v1/completions")[-1]
    assert sent["prompt"][-9:] == list(whole.tokens.ids[:9])


async def test_injected_words_are_marked_counted_and_part_of_the_turn(remote: RemoteEngine) -> None:
    (whole,) = (await made(remote, Generate(WHY, want=("tokens",)))).drafts
    result = await made(remote, Generate(WHY, 2, Prefix(whole.cut(9), " Wait,"), ("logprobs", "tokens")))
    for draft in result.drafts:
        assert draft.text.startswith(whole.cut(9).text + " Wait,")
        assert draft.injected == ((9, 12),)
        assert "".join(draft.tokens.texts) == draft.text
        assert len(draft.tokens.ids) == len(draft.tokens.texts) == draft.n_tokens
    assert result.usage.injected == 3
    assert result.usage.completion == sum(d.n_tokens - 12 for d in result.drafts)


async def test_a_draft_cut_by_a_stop_string_is_continued_by_its_text(remote: RemoteEngine, upstream: VllmStub) -> None:
    stopped = Draft("Well", "stop", tokens=(await made(remote, Generate(WHY))).drafts[0].tokens, stop_reason="!")
    (again,) = (await made(remote, Generate(WHY, 1, Prefix(stopped)))).drafts
    assert again.text.startswith("Well")
    asked = [body.get("prompt") for body in upstream.stub.bodies("/tokenize")]
    assert "Well" in asked


async def test_with_tools_a_turn_is_continued_by_its_text(remote: RemoteEngine, upstream: VllmStub) -> None:
    chat = replace(WHY, tools=(GO,), tool_choice=ToolChoice("none"))
    (again,) = (await made(remote, Generate(chat, 1, Prefix(Draft("So", n_tokens=1), " far")))).drafts
    assert again.text.startswith("So far")
    assert again.injected == ((1, 2),)
    sent = upstream.stub.bodies()[-1]
    assert sent["messages"][-1] == {"role": "assistant", "content": "So far"}
    assert sent["continue_final_message"] is True


async def test_what_cannot_be_continued_is_refused(remote: RemoteEngine) -> None:
    for chat, draft in (
        (replace(WHY, format=Format("json_object")), Draft("{")),
        (WHY, Draft("", reasoning="Hm")),
    ):
        with pytest.raises(MissingCapability):
            await remote.perform(Generate(chat, 1, Prefix(draft)), Span("a#1"))


# --------------------------------------------------------------------------------------------- weighing


async def test_given_text_is_weighed_as_the_engine_behind_weighs_it(remote: RemoteEngine) -> None:
    drafts = ((await made(remote, Generate(WHY))).drafts[0], Draft("Something else."), Draft(""))
    op, span = Logprobs(WHY, drafts), Span("a#1")
    ours, theirs = await remote.perform(op, span), await SimulatedEngine().perform(op, Span("a#1"))
    assert isinstance(ours, Weighed)
    assert isinstance(theirs, Weighed)
    for here, there in zip(ours.values, theirs.values, strict=True):
        assert here.logprobs == pytest.approx(there.logprobs)
    assert ours.usage.calls == ours.usage.completion == 2


async def test_a_text_with_nothing_before_it_comes_back_with_its_tokens(remote: RemoteEngine) -> None:
    op = Logprobs(Chat(prompt=""), (Draft("the sky is blue"),), top=1)
    result = await remote.perform(op, Span("a#1"))
    assert isinstance(result, Weighed)
    [value] = result.values
    assert value.logprobs[0] == 0.0
    assert value.tokens.top[0] == ()
    assert len(value.tokens) == len(value.logprobs) == len(value.tokens.texts) == len(value.tokens.top) > 3
    assert [row[0][0] for row in value.tokens.top[1:]] == list(value.tokens.ids[1:])


# ---------------------------------------------------------------------------------------------- counting


async def test_the_bill_is_the_upstreams_own_count(remote: RemoteEngine, upstream: VllmStub) -> None:
    before = upstream.engine.counters()
    spans = [Span(f"a#{i}") for i in range(3)]
    for span, n in zip(spans, (1, 3, 2), strict=True):
        await made(remote, Generate(WHY, n), span)
    total = sum((span.receipt.usage for span in spans), Usage())
    after, ours = upstream.engine.counters(), remote.counters()
    assert total.completion == ours.completion == after.completion - before.completion
    assert total.calls == ours.calls == after.calls - before.calls == 6
    assert remote.estimated == 0


async def test_a_cancelled_op_is_billed_exactly_and_stops_the_upstream() -> None:
    async with VllmStub(SimulatedEngine(tokens_per_second=100)).running() as upstream:
        engine = RemoteEngine([upstream.stub.url], trust_env=False)
        async with engine.running():
            before = upstream.engine.counters().completion
            span, seen = Span("a#1"), [0, 0]

            def live(delta: Delta) -> None:
                seen[delta.index] += len(delta.tokens)

            span.live = live
            with anyio.move_on_after(0.25):
                await engine.perform(Generate(LONG, 2), span)
            billed = span.receipt.usage
            assert billed.completion == sum(seen) == engine.counters().completion > 10
            await anyio.sleep(0.15)
            stopped = upstream.engine.counters()
            assert stopped.running == 0
            assert billed.completion <= stopped.completion - before <= billed.completion + 20
            assert engine.estimated == 0
            assert sum(d.n_tokens for d in span.receipt.partials()) == billed.completion


async def test_many_parallel_ops_some_cancelled_add_up(remote: RemoteEngine, upstream: VllmStub) -> None:
    spans = [Span(f"a#{i}") for i in range(24)]

    async def one(i: int) -> None:
        with anyio.move_on_after(0.01 if i % 3 == 0 else 10):
            await made(remote, Generate(WHY.but(seed=i), 1 + i % 2), spans[i])

    async with anyio.create_task_group() as tasks:
        for i in range(24):
            tasks.start_soon(one, i)
    total, counters = sum((span.receipt.usage for span in spans), Usage()), remote.counters()
    assert (total.prompt, total.cached, total.completion, total.calls) == (
        counters.prompt,
        counters.cached,
        counters.completion,
        counters.calls,
    )
    assert counters.running == 0


@pytest.mark.parametrize(("faults", "kind"), [("crash:1", EngineError), ("overload:1", EngineOverloaded)])
async def test_an_upstream_that_breaks_breaks_nothing_here(
    remote: RemoteEngine, upstream: VllmStub, faults: str, kind: type[Exception]
) -> None:
    upstream.engine = SimulatedEngine(faults=faults)
    span = Span("a#1")
    with pytest.raises(kind):
        await remote.perform(Generate(WHY), span)
    assert remote.counters().running == 0
    assert span.receipt.usage.completion == upstream.engine.counters().completion
    assert bool(span.receipt.partials()) is (kind is EngineError)


async def test_a_client_error_of_the_upstream_is_a_client_error_here(remote: RemoteEngine) -> None:
    chat = replace(WHY, format=Format("json_schema", "x", {"type": "nonsense"}))
    with pytest.raises(BadRequest, match="not a JSON schema"):
        await remote.perform(Generate(chat), Span("a#1"))
