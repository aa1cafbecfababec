"""One upstream, behaving and misbehaving: drafts, bills and errors."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from strop.server.engine.remote import RemoteEngine
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import (
    BadRequest,
    ContextTooLong,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    MissingCapability,
    StropError,
)
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Score
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.types import Chat, Draft, Message, Prefix, Sampling, ToolCall, Usage
from tests.server.engine.remote.conftest import Start
from tests.server.engine.remote.stub import Asked, Reply, Stub, chunk, usage

HELLO = Chat((Message("user", "Hello there"),), Sampling(seed=1))


async def ask(engine: RemoteEngine, op: Generate | None = None, span: Span | None = None) -> Generated:
    result = await engine.perform(op or Generate(HELLO), span or Span("a#1"))
    assert isinstance(result, Generated)
    return result


async def failure(engine: RemoteEngine, span: Span | None = None) -> StropError:
    with pytest.raises(StropError) as caught:
        await engine.perform(Generate(HELLO), span or Span("a#1"))
    return caught.value


# -------------------------------------------------------------------------------------------- behaving


async def test_chunks_become_a_draft_and_usage_becomes_the_bill(stub: Stub, start: Start) -> None:
    stub.streams(
        chunk(delta={"role": "assistant", "content": ""}),
        chunk("Hel"),
        chunk("lo"),
        chunk(finish="stop"),
        {"id": "x", "choices": [], "usage": usage(12, 3, cached=8)},
    )
    live: list[Delta] = []
    async with start(stub) as engine:
        result = await ask(engine, span=Span("a#1", live=live.append))
        counters = engine.counters()
    (draft,) = result.drafts
    assert (draft.text, draft.finish, draft.n_tokens, draft.tool_calls) == ("Hello", "stop", 3, ())
    assert "".join(delta.text for delta in live) == draft.text
    used = result.usage
    assert (used.prompt, used.cached, used.completion, used.calls) == (12, 8, 3, 1)
    assert (counters.prompt, counters.cached, counters.completion, counters.calls) == (12, 8, 3, 1)
    assert engine.estimated == 0


async def test_the_key_is_sent_and_the_model_is_the_one_that_is_served(stub: Stub, start: Start) -> None:
    stub.streams(chunk("x", finish="stop"))
    async with start(stub, api_key="secret") as engine:
        await ask(engine)
        assert engine.model.name == "m"
    assert stub.asked[-1].headers["authorization"] == "Bearer secret"
    assert stub.bodies()[0]["model"] == "m"


async def test_reasoning_is_kept_apart_under_either_name(stub: Stub, start: Start) -> None:
    stub.streams(
        chunk(delta={"reasoning_content": "Hm"}),
        chunk(delta={"reasoning": "m."}),
        chunk(delta={"reasoning_content": " So", "reasoning": " So"}),
        chunk("Yes", finish="stop"),
    )
    live: list[Delta] = []
    async with start(stub) as engine:
        (draft,) = (await ask(engine, span=Span("a#1", live=live.append))).drafts
    assert (draft.reasoning, draft.text) == ("Hmm. So", "Yes")
    assert "".join(delta.reasoning for delta in live) == "Hmm. So"


async def test_tool_calls_are_put_together_from_their_pieces(stub: Stub, start: Start) -> None:
    def piece(index: int, **function: str) -> dict[str, Any]:
        return {"index": index, "function": function}

    stub.streams(
        chunk(delta={"tool_calls": [{"id": "c0", "type": "function", **piece(0, name="f", arguments="")}]}),
        chunk(delta={"tool_calls": [piece(0, arguments='{"a"')]}),
        chunk(delta={"tool_calls": [piece(0, arguments=": 1}")]}),
        chunk(delta={"tool_calls": [{"id": "c1", **piece(1, name="g", arguments="{}")}]}),
        chunk(finish="tool_calls"),
    )
    async with start(stub) as engine:
        (draft,) = (await ask(engine)).drafts
    assert draft.tool_calls == (ToolCall("c0", "f", '{"a": 1}'), ToolCall("c1", "g", "{}"))
    assert (draft.finish, draft.text) == ("tool_calls", "")


async def test_logprobs_become_columns_that_join_to_the_text(stub: Stub, start: Start) -> None:
    def entry(token: str, p: float, *others: str) -> dict[str, Any]:
        top = [{"token": t, "logprob": p - i} for i, t in enumerate((token, *others))]
        return {"token": token, "logprob": p, "top_logprobs": top}

    stub.streams(
        chunk("Yes", choice={"logprobs": {"content": [entry("Yes", -0.1, "No")]}}),
        chunk(" in", choice={"logprobs": {"content": [entry(" ", -0.2), entry("in", -0.3)]}}),
        chunk("deed", finish="stop", choice={"logprobs": {"content": [entry("?", -0.4), entry("<end>", -0.5)]}}),
    )
    async with start(stub) as engine:
        (draft,) = (await ask(engine, Generate(HELLO.but(top_logprobs=2)))).drafts
    assert draft.tokens.texts == ("Yes", " ", "in", "", "deed")
    assert draft.tokens.logprobs == (-0.1, -0.2, -0.3, -0.4, -0.5)
    assert draft.tokens.top[0] == ((-1, "Yes", -0.1), (-1, "No", -1.1))
    assert (draft.text, draft.n_tokens) == ("Yes indeed", 5)


async def test_raw_prompts_use_the_other_endpoint_and_its_logprobs(stub: Stub, start: Start) -> None:
    logprobs = {"tokens": [" upon"], "token_logprobs": [-0.7], "top_logprobs": [{" a": -0.6, " upon": -0.7}]}
    stub.streams(
        {"choices": [{"index": 0, "text": " upon", "logprobs": logprobs, "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]},
        path="/v1/completions",
    )
    async with start(stub) as engine:
        (draft,) = (await ask(engine, Generate(Chat(prompt="Once")))).drafts
    assert (draft.text, draft.finish) == (" upon", "length")
    assert draft.tokens.top == (((-1, " a", -0.6), (-1, " upon", -0.7)),)


async def test_comments_line_ends_and_split_packets_do_not_matter(stub: Stub, start: Start) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.events()
        await reply.raw(b": keep-alive\n\n")
        await reply.raw(b'event: x\r\nid: 1\r\ndata: {"choices": [{"index": 0,\r\ndata: "delta": {"content": "\xc3')
        await anyio.sleep(0.01)
        await reply.raw(b'\xa9"}}]}\r\n\r\n: ping\n\n')
        await reply.event(chunk("!", finish="stop"))
        await reply.raw(b"data:[DONE]\n\n")
        await reply.end()

    stub.handlers["/v1/chat/completions"] = answer
    async with start(stub) as engine:
        assert (await ask(engine)).drafts[0].text == "é!"


async def test_connections_are_used_again(stub: Stub, start: Start) -> None:
    stub.streams(chunk("x", finish="stop"))
    async with start(stub) as engine:
        for _ in range(5):
            await ask(engine)
    assert len(stub.bodies()) == 5
    assert stub.connections == 1


async def test_an_upstream_that_answers_in_one_piece_is_understood(stub: Stub, start: Start) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        message = {"role": "assistant", "content": "Hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await reply.json({"choices": [choice], "usage": usage(3, 1)})

    stub.handlers["/v1/chat/completions"] = answer
    async with start(stub) as engine:
        result = await ask(engine)
    assert (result.drafts[0].text, result.usage.completion) == ("Hi", 1)


# -------------------------------------------------------------------------------------- several drafts


async def test_without_support_for_n_every_draft_is_a_call_with_a_seed_of_its_own(stub: Stub, start: Start) -> None:
    stub.streams(chunk("x", finish="stop"), {"choices": [], "usage": usage(5, 2)})
    async with start(stub) as engine:
        result = await ask(engine, Generate(HELLO, 3))
    assert [d.text for d in result.drafts] == ["x"] * 3
    assert (result.usage.prompt, result.usage.completion, result.usage.calls) == (15, 6, 3)
    seeds = [sent["seed"] for sent in stub.bodies()]
    assert len(set(seeds)) == 3
    assert 1 in seeds
    assert all("n" not in sent for sent in stub.bodies())


async def test_with_support_for_n_one_call_brings_all_drafts(stub: Stub, start: Start) -> None:
    stub.models = [{**stub.models[0], "owned_by": "vllm"}]
    stub.streams(
        chunk("b", index=1, usage=usage(5, 1)),
        chunk("a", index=0, usage=usage(5, 1)),
        chunk("B", index=1, finish="length", usage=usage(5, 2)),
        chunk("", index=0, finish="stop", usage=usage(5, 2)),
        {"choices": [], "usage": usage(5, 4)},
    )
    words: dict[int, str] = {0: "", 1: ""}

    def live(delta: Delta) -> None:
        words[delta.index] += delta.text

    async with start(stub) as engine:
        result = await ask(engine, Generate(HELLO, 2), Span("a#1", live=live))
    assert [(d.text, d.finish, d.n_tokens) for d in result.drafts] == [("a", "stop", 2), ("bB", "length", 2)]
    assert words == {0: "a", 1: "bB"}
    assert (result.usage.prompt, result.usage.completion, result.usage.calls) == (5, 4, 2)
    assert [sent["n"] for sent in stub.bodies()] == [2]


async def test_at_temperature_zero_vllm_refuses_n_so_every_draft_is_a_call(stub: Stub, start: Start) -> None:
    stub.models = [{**stub.models[0], "owned_by": "vllm"}]
    stub.streams(chunk("x", finish="stop", usage=usage(5, 1)))
    async with start(stub) as engine:
        await ask(engine, Generate(HELLO.but(temperature=0.0), 2))
    assert [sent.get("n") for sent in stub.bodies()] == [None, None]


async def test_drafts_that_an_upstream_forgot_are_asked_for_one_by_one(stub: Stub, start: Start) -> None:
    stub.models = [{**stub.models[0], "owned_by": "vllm"}]
    stub.streams(chunk("x", finish="stop", usage=usage(5, 1)))
    async with start(stub) as engine:
        result = await ask(engine, Generate(HELLO, 3))
    assert [d.text for d in result.drafts] == ["x"] * 3
    assert [sent.get("n") for sent in stub.bodies()] == [3, None, None]


# -------------------------------------------------------------------------- cancellation and honest bills


async def test_cancelling_closes_the_connection_at_once_and_bills_what_came(stub: Stub, start: Start) -> None:
    gone = anyio.Event()

    async def answer(_: Asked, reply: Reply) -> None:
        await reply.events()
        await reply.event(chunk("one ", usage=usage(9, 1)))
        await reply.event(chunk("two ", usage=usage(9, 2)))
        await reply.gone.wait()
        gone.set()

    stub.models = [{**stub.models[0], "owned_by": "vllm"}]
    stub.handlers["/v1/chat/completions"] = answer
    span = Span("a#1")
    async with start(stub) as engine:
        with anyio.move_on_after(0.2):
            await ask(engine, span=span)
        with anyio.fail_after(0.5):
            await gone.wait()
        counters = engine.counters()
        assert engine.estimated == 0
    used = span.receipt.usage
    assert (used.prompt, used.completion, used.calls) == (9, 2, 1)
    assert (counters.prompt, counters.completion, counters.running) == (9, 2, 0)
    assert [(d.text, d.finish, d.n_tokens) for d in span.receipt.partials()] == [("one two ", "length", 2)]


async def test_without_running_usage_chunks_are_counted_and_called_estimates(stub: Stub, start: Start) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.events()
        await reply.event(chunk(delta={"role": "assistant", "content": ""}))
        for word in ("one ", "two ", "three "):
            await reply.event(chunk(word))
        await reply.gone.wait()

    stub.handlers["/v1/chat/completions"] = answer
    span = Span("a#1")
    async with start(stub) as engine:
        with anyio.move_on_after(0.15):
            await ask(engine, span=span)
        used = span.receipt.usage
        assert (used.completion, used.calls) == (3, 1)
        assert used.prompt > 0
        assert engine.estimated == used.prompt + 3
        assert engine.counters().completion == 3


async def test_cancelling_before_the_first_byte_bills_a_call_that_may_have_begun(stub: Stub, start: Start) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.gone.wait()

    stub.handlers["/v1/chat/completions"] = answer
    span = Span("a#1")
    async with start(stub) as engine:
        with anyio.move_on_after(0.1):
            await ask(engine, span=span)
    assert (span.receipt.usage.calls, span.receipt.usage.completion) == (1, 0)
    assert span.receipt.partials() == []


async def test_a_cancelled_sibling_is_billed_too(stub: Stub, start: Start) -> None:
    async def answer(asked: Asked, reply: Reply) -> None:
        if asked.body["seed"] == 1:
            await anyio.sleep(0.1)
            await reply.json({"error": {"message": "broken"}}, 500)
            return
        await reply.events()
        await reply.event(chunk("half"))
        await reply.gone.wait()

    stub.handlers["/v1/chat/completions"] = answer
    span = Span("a#1")
    async with start(stub) as engine:
        with pytest.raises(EngineError):
            await engine.perform(Generate(HELLO, 2), span)
        assert engine.counters().completion == span.receipt.usage.completion == 1
    assert [d.text for d in span.receipt.partials()] == ["half"]


# ----------------------------------------------------------------------------------------- misbehaving


@pytest.mark.parametrize(
    ("events", "ending"),
    [
        ([chunk("half")], b""),
        ([chunk("half")], b"data: [DONE]\n\n"),
        ([], b"data: [DONE]\n\n"),
        ([], b""),
        ([chunk("half")], b"data: {nonsense\n\n"),
        ([chunk("half")], b"data: [1, 2]\n\n"),
        ([chunk("half")], b'data: {"choices": [5]}\n\n'),
        ([chunk("half")], b'data: {"choices": [{"index": 9, "delta": {}}]}\n\n'),
        ([chunk("half")], b'data: {"choices": [{"index": "a", "delta": {}}]}\n\n'),
        ([chunk("half")], b"data: \xff\xfe\n\n"),
        ([chunk("half")], b'data: {"error": {"message": "boom", "code": 500}}\n\ndata: [DONE]\n\n'),
    ],
)
async def test_a_truncated_or_garbled_stream_is_an_error_that_keeps_the_words_so_far(
    stub: Stub, start: Start, events: list[Any], ending: bytes
) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.events()
        for event in events:
            await reply.event(event)
        if ending:
            await reply.raw(ending)
        await reply.end()

    stub.handlers["/v1/chat/completions"] = answer
    span = Span("a#1")
    async with start(stub) as engine:
        error = await failure(engine, span)
        assert isinstance(error, EngineError)
        assert len(stub.bodies()) == 1
        assert [d.text for d in span.receipt.partials()] == ["half"] * len(events)
        assert engine.counters().completion == span.receipt.usage.completion == len(events)


async def test_a_connection_dropped_in_the_middle_is_not_tried_again(stub: Stub, start: Start) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.events()
        await reply.event(chunk("half"))
        await reply.stream.aclose()

    stub.handlers["/v1/chat/completions"] = answer
    span = Span("a#1")
    async with start(stub) as engine:
        assert isinstance(await failure(engine, span), EngineError)
    assert len(stub.bodies()) == 1
    assert [d.text for d in span.receipt.partials()] == ["half"]


async def test_a_connection_dropped_before_the_answer_is_not_tried_again_but_billed(stub: Stub, start: Start) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.stream.aclose()

    stub.handlers["/v1/chat/completions"] = answer
    span = Span("a#1")
    async with start(stub) as engine:
        assert type(await failure(engine, span)) is EngineError
    assert len(stub.bodies()) == 1
    assert span.receipt.usage.calls == 1


async def test_a_stream_that_ends_after_the_last_finish_is_complete_without_done(stub: Stub, start: Start) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.events()
        await reply.event(chunk("all", finish="stop"))
        await reply.end()

    stub.handlers["/v1/chat/completions"] = answer
    async with start(stub) as engine:
        assert (await ask(engine)).drafts[0].text == "all"


async def test_an_upstream_that_never_finishes_runs_into_the_timeout(stub: Stub, start: Start) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.events()
        await reply.event(chunk("slow"))
        await reply.gone.wait()

    stub.handlers["/v1/chat/completions"] = answer
    span = Span("a#1")
    async with start(stub, timeout=0.2) as engine:
        error = await failure(engine, span)
    assert "0.2 seconds" in str(error)
    assert span.receipt.usage.completion == 1


# --------------------------------------------------------------------------------------------- refusals


def error_body(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": None, "code": None, **more}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, error_body("top_p too big", param="top_p", code="invalid_value"), BadRequest, "top_p too big"),
        (422, {"detail": [{"msg": "bad"}]}, BadRequest, "bad"),
        (401, error_body("key sk-secret is wrong"), EngineUnavailable, "refused the server's key"),
        (403, {"error": "Forbidden sk-secret"}, EngineUnavailable, "refused the server's key"),
        (404, error_body("The model `z` does not exist"), EngineUnavailable, "does not exist"),
        (429, error_body("slow down"), EngineOverloaded, "slow down"),
        (503, b"<html>busy</html>", EngineOverloaded, "busy"),
        (500, {"object": "error", "message": "cuda died", "code": 500}, EngineError, "cuda died"),
        (302, b"", EngineError, "302"),
    ],
)
async def test_an_upstreams_refusal_keeps_its_meaning(
    stub: Stub, start: Start, status: int, body: Any, kind: type[StropError], words: str
) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.json(body, status, {"Retry-After": "7"})

    stub.handlers["/v1/chat/completions"] = answer
    span = Span("a#1")
    async with start(stub, api_key="sk-secret") as engine:
        error = await failure(engine, span)
        assert isinstance(error, kind)
        assert words in str(error)
        assert "sk-secret" not in str(error)
        assert stub.url not in str(error)
        assert span.receipt.usage.calls == engine.counters().calls == 0
    if isinstance(error, EngineOverloaded):
        assert error.retry_after == 7.0
    if isinstance(error, BadRequest) and status == 400:
        assert (error.param, error.code) == ("top_p", "invalid_value")
    assert len(stub.bodies()) == 1


@pytest.mark.parametrize(
    ("message", "tokens", "limit"),
    [
        (
            "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens "
            "(8000 in the messages, 1000 in the completion).",
            9000,
            8192,
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 1000. This model's maximum context length is 2048 "
            "tokens and your request has 1500 input tokens (1000 > 2048 - 1500).",
            2500,
            2048,
        ),
        (
            "You passed 5000 input tokens and requested 100 output tokens. However, the model's context length is "
            "only 2048 tokens, resulting in a maximum input length of 1948 tokens.",
            5100,
            2048,
        ),
    ],
)
async def test_too_long_a_context_is_told_with_its_numbers(
    stub: Stub, start: Start, message: str, tokens: int, limit: int
) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.json(error_body(message), 400)

    stub.handlers["/v1/chat/completions"] = answer
    async with start(stub) as engine:
        error = await failure(engine)
    assert isinstance(error, ContextTooLong)
    assert f"{tokens} tokens" in error.message
    assert str(limit) in error.message


async def test_too_long_a_context_without_numbers_keeps_its_code(stub: Stub, start: Start) -> None:
    async def answer(_: Asked, reply: Reply) -> None:
        await reply.json(error_body("too long", code="context_length_exceeded"), 400)

    stub.handlers["/v1/chat/completions"] = answer
    async with start(stub) as engine:
        error = await failure(engine)
    assert isinstance(error, BadRequest)
    assert error.code == "context_length_exceeded"


async def test_a_refusal_inside_the_stream_keeps_its_meaning_too(stub: Stub, start: Start) -> None:
    stub.streams({"error": {"message": "bad schema", "type": "BadRequestError", "code": 400}})
    async with start(stub) as engine:
        assert isinstance(await failure(engine), BadRequest)


# --------------------------------------------------------------------------------------- what is missing


async def test_a_plain_upstream_offers_what_openais_schema_has_and_says_why_not_the_rest(
    stub: Stub, start: Start
) -> None:
    async with start(stub, capabilities={Capability.TOP_K: True, Capability.TOOLS: False}) as engine:
        offers, reasons = engine.capabilities.offers, engine.capabilities.reasons
    assert {Capability.LOGPROBS, Capability.SEED, Capability.JSON_SCHEMA, Capability.TOP_K} <= offers
    assert set(Capability) - offers == set(reasons)
    assert all(reasons.values())
    assert reasons[Capability.TOOLS] == "switched off by the operator"


async def test_what_the_upstream_lacks_is_refused_before_anything_is_sent(stub: Stub, start: Start) -> None:
    async with start(stub) as engine:
        for op in (
            Generate(HELLO, prefix=Prefix(Draft("So"))),
            Generate(HELLO.but(top_k=4)),
            Generate(Chat(prompt=(1, 2))),
            Logprobs(HELLO, (Draft("x"),)),
        ):
            with pytest.raises(MissingCapability):
                await engine.perform(op, Span("a#1"))
        with pytest.raises(BadRequest):
            await engine.perform(Score(HELLO, ()), Span("a#1"))
        assert engine.counters().calls == 0
        assert span_usage(engine) == Usage()
    assert stub.bodies() == []


def span_usage(engine: RemoteEngine) -> Usage:
    counters = engine.counters()
    return Usage(counters.prompt, counters.cached, counters.completion, 0, counters.calls)
