"""A dead vLLM is noticed and replaced while the server goes on. Runs last: it kills the engine that the others use."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from strop.server.engine.vllm.engine import VllmEngine
from strop.strategies.kit.errors import EngineUnavailable
from strop.strategies.kit.ops import Generate, Generated
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Message, Sampling
from tests.server.engine.vllm.conftest import SMALL, smollm2

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


OWNER = """
import sys
import anyio
from strop.server.engine.vllm.engine import VllmEngine

async def main():
    engine = VllmEngine(sys.argv[1], max_model_len=256, max_num_seqs=2)
    async with engine.running():
        [process] = engine._lifeline.engine.llm.engine_core.resources.engine_manager.processes
        print("core", process.pid, flush=True)
        await anyio.sleep(600)

if __name__ == "__main__":
    anyio.run(main)
"""


def alive(process: int) -> bool:
    """A zombie is not: it waits for somebody to take notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_nothing_is_left_of_vllm_when_the_server_is_killed(tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    command = [sys.executable, str(script), smollm2()]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    owner = subprocess.Popen(command, **streams, env={**os.environ, **SMALL})  # noqa: ASYNC220
    try:
        assert owner.stdout is not None
        with anyio.fail_after(180):
            lines = [await anyio.to_thread.run_sync(owner.stdout.readline)]
            while not lines[-1].startswith(b"core"):
                assert lines[-1], "the owner ended before the engine was up"
                lines.append(await anyio.to_thread.run_sync(owner.stdout.readline))
        core = int(lines[-1].split()[1])
        assert alive(core)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    with anyio.fail_after(30):
        while alive(core):  # noqa: ASYNC110
            await anyio.sleep(0.2)
