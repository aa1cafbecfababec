"""The whole server as it is deployed: `build(Settings)`, uvicorn on a loopback socket, the simulated engine."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Thread
from typing import Any

import anyio
import httpx
import openai
import pytest
import uvicorn

from strop.server.app import build
from strop.server.engine.base import Counters
from strop.server.service import Service
from strop.server.settings import Settings
from strop.strategies import CATALOGUE
from strop.strategies.kit.budget import Budget
from strop.strategies.kit.context import Perform
from strop.strategies.kit.errors import StropError
from strop.strategies.kit.run import Request, run
from strop.strategies.kit.strategy import Strategy
from strop.strategies.kit.types import Chat, Message

NO_LIMIT = Budget()
SUM = "What is 20 + 22?"

SMALL: dict[str, dict[str, Any]] = {
    "best_of_n": {"n": 3},
    "self_consistency": {"n": 6},
    "self_refine": {"rounds": 2},
    "id_sampling": {"first": 16, "growth": 1.5},
    "mcts": {"iterations": 3},
}
"""Knobs that make a strategy do some work quickly."""


def knobs_of(strategy: Strategy) -> dict[str, Any]:
    """Also for strategies not named above; the simulated engine is no reward model, so a judge stands in for one."""
    fields = strategy.knobs.model_fields
    return {knob: "judge" for knob, field in fields.items() if field.default == "prm"} | SMALL.get(strategy.name, {})


QUESTION = Chat((Message("user", SUM),))


@cache
def simulated() -> Perform:
    """The simulated engine with the server's scorers."""
    service: Service = build(Settings(engine="simulated")).state.service
    return service.perform


def refusal(strategy: Strategy, question: Chat = QUESTION, budget: Budget = NO_LIMIT) -> StropError | None:
    """Why the simulated engine cannot run a strategy on a question, or None."""
    try:
        anyio.run(run, Request(strategy, question, knobs_of(strategy), budget), simulated())
    except StropError as refused:
        return refused
    return None


KNOBS = {name: knobs_of(strategy) for name, strategy in CATALOGUE.items()}
LACKING = {name for name, strategy in CATALOGUE.items() if refusal(strategy)}
"""Strategies that need what the simulated engine is not, such as a process reward model."""

SERVED = [name for name in CATALOGUE if name not in LACKING]
NEED_TURNS = {name for name in SERVED if refusal(CATALOGUE[name], Chat(prompt=SUM))}
"""Strategies that refuse a raw prompt."""

ANYTIME = [name for name in SERVED if not refusal(CATALOGUE[name], budget=Budget(calls=1))]
"""Strategies that draft an answer first. Those that plan first have nothing to serve when they are ended early."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `name` is run with every strategy that can be served."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", SERVED)


ROUTES = {
    "chat": "/v1/chat/completions",
    "text": "/v1/completions",
    "responses": "/v1/responses",
}


class Whole:
    """A server in a thread of its own."""

    def __init__(self, **settings: Any) -> None:
        self.app = build(Settings(engine="simulated", **settings))
        self.service: Service = self.app.state.service
        self.service.metrics.watch(self.service)
        config = uvicorn.Config(self.app, port=0, log_level="critical", timeout_graceful_shutdown=5)
        self.server = uvicorn.Server(config)
        self.thread = Thread(target=self.server.run)

    def __enter__(self) -> Whole:
        self.thread.start()
        eventually(lambda: self.server.started)
        self.port: int = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        limits = httpx.Limits(max_connections=200)
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=30, limits=limits)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.server.should_exit = True
        self.thread.join(15)
        assert not self.thread.is_alive()

    def sdk(self, path: str = "/v1", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + path, api_key="none", max_retries=0, http_client=self.http, **options)

    def ask(self, text: str = SUM, *, to: str = "chat", **fields: Any) -> httpx.Response:
        return self.http.post(ROUTES[to], json=body(text, to=to, **fields))

    def events(self, text: str = SUM, *, to: str = "chat", **fields: Any) -> list[Any]:
        """The events of a stream; the last of a good one is "[DONE]" (not for responses)."""
        answer = self.ask(text, to=to, stream=True, **fields)
        assert answer.status_code == 200, answer.text
        return events_of(answer.text)

    @contextmanager
    def raw(self, text: str = SUM, *, to: str = "chat", **fields: Any) -> Iterator[socket.socket]:
        """A request on a raw socket, for clients that hang up."""
        content = json.dumps(body(text, to=to, **fields)).encode()
        head = f"POST {ROUTES[to]} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            yield connection

    @property
    def counted(self) -> Counters:
        return self.service.engine.counters()

    @property
    def idle(self) -> bool:
        now = self.counted
        admission = self.service.admission
        return (now.running, now.waiting, admission.active, admission.waiting) == (0, 0, 0, 0)

    def metered(self) -> dict[str, int]:
        """What /metrics has counted on bills, under the names of `Counters`."""
        page = self.http.get("/metrics").text

        def total(pattern: str) -> int:
            return int(sum(float(value) for value in re.findall(pattern + r" (\S+)$", page, flags=re.MULTILINE)))

        return {
            "prompt": total(r'strop_tokens_total{.*type="prompt"}'),
            "completion": total(r'strop_tokens_total{.*type="(?:completion|refinement|judge)"}'),
            "calls": total("strop_engine_calls_per_request_sum{.*}"),
        }


def body(text: str, *, to: str, **fields: Any) -> dict[str, Any]:
    """A request body for one of the three endpoints."""
    asked: dict[str, Any] = {"model": "simulated"}
    match to:
        case "chat":
            asked["messages"] = [{"role": "user", "content": text}]
        case "text":
            asked["prompt"] = text
        case _:
            asked["input"] = text
    return {**asked, **fields}


def events_of(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def said(answer: Any) -> str:
    """The text of a whole answer or of a list of events, whatever the endpoint."""
    if isinstance(answer, dict):
        if "output" in answer:
            return "".join(p["text"] for i in answer["output"] if i["type"] == "message" for p in i["content"])
        [choice] = answer["choices"]
        found: str = choice["text"] if "text" in choice else choice["message"]["content"]
        return found
    if any(isinstance(e, dict) and "type" in e for e in answer):
        return "".join(e["delta"] for e in answer if e["type"] == "response.output_text.delta")
    choices = [c for e in answer if isinstance(e, dict) for c in e.get("choices", ())]
    return "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices)


def about(answer: Any) -> Any:
    """The `strop` object with the bill, of a whole answer or of a list of events."""
    if isinstance(answer, dict):
        return answer["strop"]
    flat = [e.get("response", e) for e in answer if isinstance(e, dict)]
    return next(e["strop"] for e in reversed(flat) if "bill" in (e.get("strop") or {}))


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    """A server that answers at once."""
    with Whole() as server:
        yield server


@pytest.fixture
def serve() -> Iterator[Callable[..., Whole]]:
    """Start a server with settings of one's own; `simulation` is a dictionary."""
    running: list[Whole] = []

    def start(**settings: Any) -> Whole:
        server = Whole(**settings)
        running.append(server.__enter__())
        return server

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture(scope="session")
def tools() -> Any:
    """This module, for tests that need its functions."""
    import sys

    return sys.modules[__name__]
