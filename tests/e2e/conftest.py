"""A real server on a real socket with the real embedded model, shared by the whole module."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Thread

import httpx
import openai
import pytest
import uvicorn

from strop.server.app import build
from strop.server.engine.base import Counters
from strop.server.service import Service
from strop.server.settings import Settings


class Server:
    """A running strop; `sdk` talks to it as any client would."""

    def __init__(self, settings: Settings) -> None:
        self.app = build(settings)
        self.service: Service = self.app.state.service
        self._server = uvicorn.Server(
            uvicorn.Config(self.app, port=0, log_level="warning", timeout_graceful_shutdown=2)
        )
        self._thread = Thread(target=self._server.run)
        self._http = httpx.Client(timeout=300, trust_env=False)

    def __enter__(self) -> Server:
        self._thread.start()
        deadline = time.monotonic() + 300
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.05)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.model = self.service.model_name
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not stop"

    def sdk(self, path: str = "/v1") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + path, api_key="none", max_retries=0, http_client=self._http)

    def counters(self) -> Counters:
        """What the engine itself has counted, once nothing runs any more."""
        deadline = time.monotonic() + 30
        while (now := self.service.engine.counters()).running or now.waiting:
            assert time.monotonic() < deadline, f"the engine still works: {now}"
            time.sleep(0.02)
        return now


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """strop with SmolLM2-135M-Instruct on this machine's CPU."""
    pytest.importorskip("torch")
    with Server(Settings()) as running:
        yield running
