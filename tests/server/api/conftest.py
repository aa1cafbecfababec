"""Doubles for the HTTP tests: an engine around any test `Perform`, a few small strategies, a real server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from strop.server.api import routes
from strop.server.engine.base import Counters, Health, ModelInfo
from strop.server.observe.metrics import Metrics
from strop.server.service import Service
from strop.server.settings import Preset, Settings
from strop.strategies.direct import direct
from strop.strategies.kit.capabilities import Capabilities, Capability
from strop.strategies.kit.context import Context, Perform
from strop.strategies.kit.ops import Op, Result
from strop.strategies.kit.span import Span
from strop.strategies.kit.strategy import catalogue
from strop.strategies.kit.types import Chat, Draft, Message
from strop.strategies.testing import Scripted, Simulated

LACKS = {Capability.PRM, Capability.HIDDEN_STATES}
CRITIQUE = "the units in the second line are wrong"


class FakeEngine:
    """An engine around a `Perform`; it counts the ops it is working on, and those that were stopped."""

    def __init__(self, inner: Perform) -> None:
        self.inner = inner
        self.model = ModelInfo("tiny", context=2048, created=1_700_000_000)
        self.capabilities = Capabilities(frozenset(Capability) - LACKS, {Capability.PRM: "no reward model is loaded"})
        self.ready = True
        self.started = self.in_flight = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    async def perform(self, op: Op, span: Span) -> Result:
        self.started += 1
        self.in_flight += 1
        try:
            return await self.inner(op, span)
        finally:
            self.in_flight -= 1

    def health(self) -> Health:
        return Health(self.ready, "" if self.ready else "the socket /run/engine.sock is closed")

    def counters(self) -> Counters:
        return Counters()


async def pick(ctx: Context, question: Chat, n: int = 4, tie: str = "first") -> list[Draft]:
    """Several drafts, the longest wins.

    Paper: none.
    Cost: n drafts.
    Departures: none.
    """

    async def one(_: int) -> Draft:
        (draft,) = await ctx.generate(question)
        ctx.keep(draft, score=float(len(draft.text)))
        return draft

    drafts = await ctx.map(one, range(n), name="draft")
    return sorted(drafts, key=lambda draft: -len(draft.text))


async def revise(ctx: Context, question: Chat) -> Draft:
    """A draft, a critique, a revision that is streamed.

    Paper: none.
    Cost: three generations.
    Departures: none.
    """
    (draft,) = await ctx.generate(question)
    ctx.keep(draft)
    critic = Chat((Message("user", f"criticise: {draft.text}"),), tag="critique", answers=False)
    (critique,) = await ctx.generate(critic)
    turns = (draft.message, Message("user", critique.text))
    (revised,) = await ctx.generate(question.then(*turns, tag="revise"), final=True)
    return revised


async def wordy(ctx: Context, question: Chat) -> Draft:
    """Says where it is going before it gets there.

    Paper: none.
    Cost: one generation.
    Departures: none.
    """
    ctx.commit("The answer: ")
    (draft,) = await ctx.generate(question)
    return Draft("The answer: " + draft.text, n_tokens=draft.n_tokens)


async def buggy(ctx: Context, question: Chat) -> Draft:
    """Fails before it has done anything.

    Paper: none.
    Cost: none.
    Departures: none.
    """
    raise RuntimeError("cannot open /etc/secret/path")


async def twice(ctx: Context, question: Chat) -> Draft:
    """Asks again and forgets the first draft.

    Paper: none.
    Cost: two generations.
    Departures: none.
    """
    await ctx.generate(question)
    (draft,) = await ctx.generate(question)
    return draft


async def stepwise(ctx: Context, question: Chat) -> Draft:
    """Needs what the engine lacks.

    Paper: none.
    Cost: none.
    Departures: none.
    Requires: prm
    """
    raise AssertionError


STRATEGIES = catalogue(direct, pick, revise, wordy, buggy, twice, stepwise)
PRESETS = {
    "pick-2": Preset(strategy="pick", knobs={"n": 2}, description="two drafts"),
    "short": Preset(strategy="pick", knobs={"n": 3}, budget={"tokens": 30}),
    "gone": Preset(strategy="not_installed"),
}


def settings(**changed: Any) -> Settings:
    return Settings(
        **{"presets": PRESETS, "effort_map": {"high": "pick-2", "low": "direct"}, "max_choices": 8, **changed}
    )


def app_of(engine: FakeEngine, **changed: Any) -> FastAPI:
    """The application, with the strategies above."""
    service = Service(settings(**changed), {"policy": engine}, STRATEGIES, Metrics(CollectorRegistry()))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(title="strop", lifespan=lifespan, redirect_slashes=False)
    app.state.service = service
    routes.install(app, service)
    return app


class Live:
    """A real server on a port of the loopback, in a thread of its own."""

    def __init__(self, engine: FakeEngine, **changed: Any) -> None:
        self.engine = engine
        self.app = app_of(engine, **changed)
        self.service: Service = self.app.state.service
        config = uvicorn.Config(self.app, port=0, log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = Thread(target=self._server.run)

    def __enter__(self) -> Live:
        self._thread.start()
        eventually(lambda: self._server.started)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=20)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def sdk(self, path: str = "/v1") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + path, api_key="none", max_retries=0, http_client=self.http)

    def chat(self, **fields: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json={"model": "tiny", "messages": ASK, **fields})


ASK = [{"role": "user", "content": "What is 6 times 7?"}]


def eventually(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def always(text: str, **others: Any) -> Scripted:
    """An engine that drafts and revises the same text every time."""
    return Scripted({"draft": lambda _: text, "revise": lambda _: text, "critique": lambda _: CRITIQUE, **others})


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """A server with a simulated model that answers at once."""
    with Live(FakeEngine(Simulated(length=12))) as server:
        yield server


@pytest.fixture
def serve() -> Iterator[Callable[..., Live]]:
    """Start a server around a `Perform`; it ends with the test."""
    running: list[Live] = []

    def start(inner: Perform, **changed: Any) -> Live:
        server = Live(FakeEngine(inner), **changed)
        running.append(server.__enter__())
        return server

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture
def doubles() -> Any:
    """This module, for tests that build their own servers."""
    import sys

    return sys.modules[__name__]
