"""Engines on a tiny random model, so that everything runs offline in seconds."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="the embedded engine needs torch")
pytest.importorskip("transformers", reason="the embedded engine needs transformers")

from strop.server.engine.transformers.batcher import Limits
from strop.server.engine.transformers.load import Loaded, describe
from strop.server.engine.transformers.loop import Engine
from tests.server.engine.transformers.tiny import make_model, make_tokenizer


@pytest.fixture(scope="session")
def original() -> Any:
    """The model as transformers runs it."""
    return make_model()


@pytest.fixture(scope="session")
def loaded(original: Any) -> Loaded:
    return describe(copy.deepcopy(original), make_tokenizer(), "tiny")


@pytest.fixture
async def engine(loaded: Loaded) -> AsyncIterator[Engine]:
    async with Engine(loaded, Limits(rows=8, kv_tokens=4096, prefix_tokens=1024, prefill_tokens=32)) as running:
        yield running


@pytest.fixture
async def cold(loaded: Loaded) -> AsyncIterator[Engine]:
    """An engine that remembers no prefixes."""
    async with Engine(loaded, Limits(rows=8, kv_tokens=4096, prefix_tokens=0, prefill_tokens=32)) as running:
        yield running
