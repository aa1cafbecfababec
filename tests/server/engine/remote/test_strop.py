"""A strop behind a strop: the server is a well-behaved upstream for its own remote engine."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from strop.server.engine.remote import RemoteEngine
from strop.server.engine.simulated import SimulatedEngine
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate, Generated
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Format, Message, Sampling, Tool, ToolChoice

app = pytest.importorskip("strop.server.app")
uvicorn = pytest.importorskip("uvicorn")

WHY = Chat((Message("user", "What is 17*3?"),), Sampling(seed=4, max_tokens=60))


@pytest.fixture
def behind() -> SimulatedEngine:
    return SimulatedEngine(skill=1.0)


@pytest.fixture
async def remote(behind: SimulatedEngine) -> AsyncIterator[RemoteEngine]:
    from strop.server.settings import Settings

    built = app.build(Settings(engine="simulated"), {"policy": behind})
    server = uvicorn.Server(uvicorn.Config(built, host="127.0.0.1", port=0, log_level="error", ws="none"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with _serving(server, taken) as engine:
            yield engine


@asynccontextmanager
async def _serving(server: Any, taken: socket.socket) -> AsyncIterator[RemoteEngine]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [taken])
        engine = RemoteEngine([f"http://127.0.0.1:{taken.getsockname()[1]}"], trust_env=False)
        async with engine.running():
            yield engine
        server.should_exit = True


async def made(engine: RemoteEngine, op: Generate) -> Generated:
    result = await engine.perform(op, Span("a#1"))
    assert isinstance(result, Generated)
    return result


async def test_it_is_known_for_what_it_is(remote: RemoteEngine) -> None:
    assert remote.model.name == "simulated"
    assert {Capability.TOP_K, Capability.MIN_P, Capability.TOP_LOGPROBS, Capability.TOOLS} <= remote.capabilities.offers
    assert Capability.PREFIX not in remote.capabilities.offers


async def test_several_drafts_of_one_request_are_billed_as_the_engine_behind_counts(
    remote: RemoteEngine, behind: SimulatedEngine
) -> None:
    before = behind.counters()
    result = await made(remote, Generate(WHY, 3))
    after = behind.counters()
    assert len({d.text for d in result.drafts}) == 3
    assert all("51" in d.text or d.finish == "length" for d in result.drafts)
    assert result.usage.completion == after.completion - before.completion
    assert result.usage.calls == after.calls - before.calls
    assert remote.estimated == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"format": Format("json_schema", "x", {"type": "object", "properties": {"a": {"type": "null"}}})},
        {"tools": (Tool("go", "Goes.", {"type": "object"}),), "tool_choice": ToolChoice("required")},
        {"sampling": Sampling(seed=1, max_tokens=9, top_k=5, min_p=0.1, min_tokens=3, stop=("zzz",), top_logprobs=2)},
        {"sampling": Sampling(seed=1, max_tokens=9, ignore_eos=True, stop_token_ids=(5,), repetition_penalty=1.1)},
    ],
)
async def test_parameters_arrive(remote: RemoteEngine, changes: dict[str, Any]) -> None:
    (draft,) = (await made(remote, Generate(replace(WHY, **changes)))).drafts
    assert draft.text or draft.tool_calls
    assert draft.n_tokens > 0


async def test_its_errors_keep_their_meaning(remote: RemoteEngine) -> None:
    with pytest.raises(BadRequest) as refused:
        await made(remote, Generate(WHY.but(top_p=7.0)))
    assert refused.value.param == "top_p"


async def test_cancelling_reaches_the_engine_behind_both(remote: RemoteEngine, behind: SimulatedEngine) -> None:
    behind._speed = 50.0
    span = Span("a#1")
    with anyio.move_on_after(0.3):
        await remote.perform(Generate(WHY, 2), span)
    await anyio.sleep(0.3)
    assert behind.counters().running == 0
    assert 0 < span.receipt.usage.completion < 120
