"""Remote engines over stub servers on the loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from strop.server.engine.remote import RemoteEngine
from tests.server.engine.remote.stub import Stub

Start = Callable[..., AbstractAsyncContextManager[RemoteEngine]]


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with Stub().running() as running:
        yield running


@pytest.fixture
def start() -> Start:
    """A running engine over some stubs, without probes unless asked for."""

    @asynccontextmanager
    async def starting(*stubs: Stub, **options: Any) -> AsyncIterator[RemoteEngine]:
        settings: dict[str, Any] = {"probe": False, "patience": 0.0, "trust_env": False, "timeout": 5.0}
        engine = RemoteEngine([s.url for s in stubs], **(settings | options))
        async with engine.running():
            yield engine

    return starting
