"""Several upstreams: where a request goes, who takes over, what health says."""

from __future__ import annotations

import socket
from collections import Counter

import anyio
import pytest

from strop.server.engine.remote import RemoteEngine
from strop.strategies.kit.errors import EngineError, EngineOverloaded, EngineUnavailable
from strop.strategies.kit.ops import Generate
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Message, Usage
from tests.server.engine.remote.conftest import Start
from tests.server.engine.remote.stub import Asked, Reply, Stub, chunk, usage

ANSWER = (chunk("x", finish="stop"), {"choices": [], "usage": usage(5, 1)})


def chat(words: str, *more: str) -> Chat:
    return Chat((Message("system", "s"), Message("user", words), *(Message("user", m) for m in more)))


def unused_url() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


async def refusing(asked: Asked, reply: Reply) -> None:
    await reply.json({"error": {"message": "full"}}, 429, {"Retry-After": "30"})


async def test_one_conversation_stays_at_one_replica_and_many_are_spread(start: Start) -> None:
    async with Stub().running() as a, Stub().running() as b, Stub().running() as c:
        stubs = (a, b, c)
        for stub in stubs:
            stub.streams(*ANSWER)
        async with start(*stubs) as engine:
            for topic in range(30):
                for turn in ((), ("more",), ("more", "and more")):
                    await engine.perform(Generate(chat(f"topic {topic}", *turn)), Span("a#1"))
        seen = [{sent["messages"][1]["content"] for sent in stub.bodies()} for stub in stubs]
    assert sum(map(len, seen)) == 30
    assert min(map(len, seen)) >= 3


async def test_the_same_urls_in_another_order_choose_the_same_replica(start: Start) -> None:
    async with Stub().running() as a, Stub().running() as b:
        for stub in (a, b):
            stub.streams(*ANSWER)
        for order in ((a, b), (b, a)):
            async with start(*order) as engine:
                for topic in range(8):
                    await engine.perform(Generate(chat(str(topic))), Span("a#1"))
        topics = Counter((s.url, sent["messages"][1]["content"]) for s in (a, b) for sent in s.bodies())
    assert set(topics.values()) == {2}


async def test_a_crowded_favourite_lets_others_help(start: Start) -> None:
    async def slow(_: Asked, reply: Reply) -> None:
        await anyio.sleep(0.1)
        await reply.events()
        for event in ANSWER:
            await reply.event(event)
        await reply.done()

    async with Stub().running() as a, Stub().running() as b:
        for stub in (a, b):
            stub.handlers["/v1/chat/completions"] = slow
        async with start(a, b) as engine:
            await engine.perform(Generate(chat("hot"), 4), Span("a#1"))
            assert sorted(len(s.bodies()) for s in (a, b)) == [0, 4]
            await engine.perform(Generate(chat("hot"), 40), Span("a#2"))
        assert min(len(s.bodies()) for s in (a, b)) >= 8


async def test_a_replica_that_cannot_be_reached_is_passed_over_and_named_by_health(stub: Stub, start: Start) -> None:
    stub.streams(*ANSWER)
    dead = unused_url()
    engine = RemoteEngine([dead, stub.url], probe=False, trust_env=False)
    async with engine.running():
        for topic in range(10):
            await engine.perform(Generate(chat(str(topic))), Span("a#1"))
        health = engine.health()
    assert health.ready
    assert dead.removeprefix("http://") in health.detail
    assert stub.url not in health.detail


async def test_a_replica_that_goes_away_is_replaced_in_the_middle_and_comes_back(start: Start) -> None:
    async with Stub().running() as stays:
        stays.streams(*ANSWER)
        async with anyio.create_task_group() as tasks, Stub().running() as leaves:
            leaves.streams(*ANSWER)
            engine = RemoteEngine(
                [stays.url, leaves.url], probe=False, trust_env=False, retries=0, health_interval=0.05
            )
            async with engine.running():
                leaves.handlers["/health"] = _unwell
                await anyio.sleep(0.15)
                assert leaves.url.removeprefix("http://") in engine.health().detail
                before = len(leaves.bodies())
                for topic in range(10):
                    await engine.perform(Generate(chat(str(topic))), Span("a#1"))
                assert len(leaves.bodies()) == before
                del leaves.handlers["/health"]
                await anyio.sleep(0.15)
                assert engine.health().detail == ""
            tasks.cancel_scope.cancel()


async def _unwell(_: Asked, reply: Reply) -> None:
    await reply.json({}, 500)


async def test_a_full_replica_is_passed_over_and_rests(start: Start) -> None:
    async with Stub().running() as full, Stub().running() as free:
        full.handlers["/v1/chat/completions"] = refusing
        free.streams(*ANSWER)
        async with start(full, free) as engine:
            spans = [Span(f"a#{i}") for i in range(12)]
            for i, span in enumerate(spans):
                await engine.perform(Generate(chat(str(i))), span)
        assert len(free.bodies()) == 12
        assert len(full.bodies()) <= 1
        assert {span.receipt.usage.calls for span in spans} == {1}


async def test_when_all_are_full_the_client_is_told_when_to_come_back(start: Start) -> None:
    async with Stub().running() as a, Stub().running() as b:
        for stub in (a, b):
            stub.handlers["/v1/chat/completions"] = refusing
        async with start(a, b) as engine:
            span = Span("a#1")
            with pytest.raises(EngineOverloaded) as refused:
                await engine.perform(Generate(chat("x")), span)
        assert refused.value.retry_after == 30.0
        assert (len(a.bodies()), len(b.bodies())) == (1, 1)
        assert span.receipt.usage == Usage()


async def test_attempts_to_connect_are_bounded_and_cost_nothing(stub: Stub) -> None:
    engine = RemoteEngine([stub.url], probe=False, trust_env=False, retries=2)
    async with engine.running():
        engine._pool.replicas[0].link.api = f"{unused_url()}/v1"
        span = Span("a#1")
        with pytest.raises(EngineUnavailable):
            await engine.perform(Generate(chat("x")), span)
        assert span.receipt.usage == Usage()
        assert engine.counters().calls == 0
        assert not engine.health().ready


async def test_without_any_upstream_it_does_not_start(stub: Stub) -> None:
    engine = RemoteEngine([unused_url()], patience=0.0, trust_env=False)
    assert not engine.health().ready
    with pytest.raises(EngineUnavailable):
        await engine.perform(Generate(chat("x")), Span("a#1"))
    with pytest.raises(EngineUnavailable):
        async with engine.running():
            pass


async def test_it_waits_for_an_upstream_that_is_still_loading(stub: Stub) -> None:
    stub.handlers["/health"] = _unwell
    engine = RemoteEngine([stub.url], probe=False, patience=5.0, trust_env=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_get_well, stub)
        async with engine.running():
            assert engine.health().ready
            assert engine.model.name == "m"


async def _get_well(stub: Stub) -> None:
    await anyio.sleep(0.1)
    del stub.handlers["/health"]


async def test_a_wrong_key_is_not_waited_for_and_not_repeated(stub: Stub) -> None:
    async def locked(_: Asked, reply: Reply) -> None:
        await reply.json({"error": "Unauthorized"}, 401)

    stub.handlers["/v1/models"] = locked
    engine = RemoteEngine([stub.url], api_key="sk-wrong", patience=60.0, trust_env=False)
    with anyio.fail_after(2.0), pytest.raises(EngineUnavailable) as refused:
        async with engine.running():
            pass
    assert "key" in str(refused.value)
    assert "sk-wrong" not in str(refused.value)


async def test_replicas_of_different_models_are_not_mixed(start: Start) -> None:
    async with Stub().running() as a, Stub(models=[{"id": "other"}]).running() as b:
        engine = RemoteEngine([a.url, b.url], probe=False, trust_env=False)
        async with engine.running():
            assert engine.model.name in ("m", "other")
            assert "the others serve" in engine.health().detail


async def test_several_models_need_a_name_and_an_unlisted_path_too(stub: Stub, start: Start) -> None:
    stub.models = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(EngineUnavailable, match="say which"):
        async with start(stub):
            pass
    stub.streams(*ANSWER)
    async with start(stub, model="b") as engine:
        await engine.perform(Generate(chat("x")), Span("a#1"))
    assert stub.bodies()[0]["model"] == "b"


async def test_a_vllm_that_does_not_serve_the_model_is_refused(stub: Stub, start: Start) -> None:
    stub.models = [{"id": "a", "owned_by": "vllm", "max_model_len": 99}]
    with pytest.raises(EngineUnavailable, match="does not serve 'b'"):
        async with start(stub, model="b"):
            pass
    async with start(stub) as engine:
        assert (engine.model.name, engine.model.context) == ("a", 99)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://"])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        RemoteEngine([url])


async def test_an_error_in_the_body_leaves_running_as_it_is(stub: Stub, start: Start) -> None:
    with pytest.raises(EngineError, match="mine"):
        async with start(stub):
            raise EngineError("mine")
