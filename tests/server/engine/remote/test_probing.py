"""What probing finds out about upstreams that are neither vLLM nor strop."""

from __future__ import annotations

from typing import Any

from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.ops import Generate
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Message, Sampling
from tests.server.engine.remote.conftest import Start
from tests.server.engine.remote.stub import Asked, Reply, Stub, chunk, usage

HELLO = Chat((Message("user", "Hello"),), Sampling(max_tokens=8))


def upstream(stub: Stub, *refused: str, choices: int = 2, silent: tuple[str, ...] = (), raw: bool = True) -> None:
    """An OpenAI-compatible server that answers 400 to some fields and leaves out what others ask for."""

    async def answer(asked: Asked, reply: Reply) -> None:
        body: dict[str, Any] = asked.body
        if bad := [name for name in refused if name in body]:
            await reply.json({"error": {"message": f"unknown field {bad[0]}", "param": bad[0]}}, 400)
            return
        if not body.get("stream"):
            whole = [{"index": i, "message": {"content": "x"}, "text": "x"} for i in range(choices)]
            await reply.json({"choices": whole[: body.get("n", 1)]})
            return
        logprobs = {"content": [{"token": "x", "logprob": -0.1, "top_logprobs": []}]}
        more = {"logprobs": logprobs} if "logprobs" in body and "logprobs" not in silent else {}
        await reply.events()
        for index in range(min(choices, body.get("n", 1))):
            await reply.event(chunk("x", index=index, finish="stop", choice=more))
        if "stream_options" in body and "usage" not in silent:
            await reply.event({"choices": [], "usage": usage(3, 1)})
        await reply.done()

    stub.handlers["/v1/chat/completions"] = answer
    if raw:
        stub.handlers["/v1/completions"] = answer


async def test_a_complete_upstream_offers_all_of_openais_schema(stub: Stub, start: Start) -> None:
    upstream(stub)
    async with start(stub, probe=True) as engine:
        offers = engine.capabilities.offers
        result = await engine.perform(Generate(HELLO, 2), Span("a#1"))
    assert {Capability.LOGPROBS, Capability.RAW_PROMPT, Capability.TOOLS, Capability.SEED} <= offers
    assert not offers & {Capability.TOKENS, Capability.PREFIX, Capability.TOP_K, Capability.ENTROPY}
    assert stub.bodies()[-1]["n"] == 2
    assert result.usage.calls == 2


async def test_probes_are_few_and_ask_for_one_token(stub: Stub, start: Start) -> None:
    upstream(stub)
    async with start(stub, probe=True):
        pass
    sent = stub.bodies() + stub.bodies("/v1/completions")
    assert len(sent) <= 5
    assert {body["max_tokens"] for body in sent} == {1}


async def test_refused_fields_are_left_out_or_called_by_their_other_name(stub: Stub, start: Start) -> None:
    upstream(stub, "max_tokens", "stream_options", "logprobs", "n", "tools", raw=False)
    async with start(stub, probe=True) as engine:
        capabilities = engine.capabilities
        await engine.perform(Generate(HELLO, 2), Span("a#1"))
        assert engine.estimated == engine.counters().prompt + engine.counters().completion > 0
    for capability in (
        Capability.LOGPROBS,
        Capability.TOP_LOGPROBS,
        Capability.TOOLS,
        Capability.FORCED_TOOLS,
        Capability.RAW_PROMPT,
    ):
        assert "refused" in capabilities.why_not(capability)
    sent = stub.bodies()[-1]
    assert sent["max_completion_tokens"] == 8
    assert not {"max_tokens", "stream_options", "n"} & set(sent)


async def test_fields_that_are_accepted_and_ignored_are_noticed(stub: Stub, start: Start) -> None:
    upstream(stub, choices=1, silent=("logprobs", "usage"))
    async with start(stub, probe=True) as engine:
        assert "left logprobs out" in engine.capabilities.why_not(Capability.TOP_LOGPROBS)
        await engine.perform(Generate(HELLO, 2), Span("a#1"))
    assert all("n" not in body for body in stub.bodies()[-2:])
    assert "stream_options" not in stub.bodies()[-1]
