"""A dead vLLM is noticed and replaced while the server goes on. Runs last: it kills the engine that the others use."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from strop.server.engine.vllm.engine import VllmEngine
from strop.strategies.kit.errors import EngineUnavailable
from strop.strategies.kit.ops import Generate, Generated
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Message, Sampling

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("default")]

CHAT = Chat((Message("user", "Name three colours."),), Sampling(max_tokens=8, temperature=0.0))
LONG = CHAT.but(max_tokens=900, ignore_eos=True)


def core_process(engine: VllmEngine) -> int:
    [process] = engine._lifeline.engine.llm.engine_core.resources.engine_manager.processes
    return int(process.pid)


async def text(engine: VllmEngine) -> str:
    result = await engine.perform(Generate(CHAT), Span("x"))
    assert isinstance(result, Generated)
    return result.drafts[0].text


async def test_a_killed_engine_fails_its_requests_and_comes_back(vllm_engine: VllmEngine) -> None:
    before = await text(vllm_engine)
    counted, span, failures = vllm_engine.counters(), Span("victim"), list[Exception]()

    async def victim() -> None:
        try:
            await vllm_engine.perform(Generate(LONG, n=2), span)
        except EngineUnavailable as unavailable:
            failures.append(unavailable)

    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        await anyio.sleep(2)
        os.kill(core_process(vllm_engine), signal.SIGKILL)
        with anyio.fail_after(30):
            while vllm_engine.health().ready:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        with pytest.raises(EngineUnavailable, match="started again"):
            await text(vllm_engine)
    assert len(failures) == 1
    assert "started again" in vllm_engine.health().detail
    with anyio.fail_after(240):
        while not vllm_engine.health().ready:  # noqa: ASYNC110
            await anyio.sleep(0.2)
    assert await text(vllm_engine) == before
    assert vllm_engine.counters().completion > counted.completion
    assert vllm_engine.capabilities.offers
    assert any(family.name == "vllm:generation_tokens" for family in vllm_engine.collector.collect())
