"""Requests that do not run to their end: engines stop, what is served says that it is less, nothing is left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from strop.strategies import CATALOGUE

EVERY = pytest.mark.parametrize("name", CATALOGUE)
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
DEGRADED = {"kept", "unselected", "partial"}


@pytest.fixture(scope="module")
def paced(tools: Any) -> Iterator[Any]:
    """A server whose drafts take about half a second each."""
    with tools.Whole(simulation={"tokens_per_second": 150.0}, sse_keep_alive_interval=0.1) as server:
        yield server


def chosen(tools: Any, name: str, **more: Any) -> dict[str, Any]:
    return {"strategy": name, **tools.KNOBS[name], **more}


@EVERY
@STREAMED
def test_a_client_that_hangs_up_stops_the_engine_and_the_strategy(paced, tools, name, stream):
    before = paced.counted
    with paced.raw(stream=stream, strop=chosen(tools, name), max_tokens=2000) as connection:
        tools.eventually(lambda: paced.counted.completion > before.completion + 3)
        if stream:
            assert b" 200 " in connection.recv(65536)
        assert not paced.idle
    tools.eventually(lambda: paced.idle, seconds=1.0)
    left = paced.counted
    time.sleep(0.05)
    assert paced.counted == left, "the strategy went on after its client had left"


@EVERY
def test_a_client_that_hangs_up_before_the_first_token_stops_the_engine_too(serve, tools, name):
    server = serve(simulation={"latency": 30.0})
    with server.raw(strop=chosen(tools, name)):
        tools.eventually(lambda: server.counted.running > 0)
    tools.eventually(lambda: server.idle, seconds=1.0)
    assert server.counted.completion == 0


@EVERY
@STREAMED
def test_a_deadline_is_kept_and_the_answer_says_so(paced, tools, name, stream):
    began = time.monotonic()
    strop = chosen(tools, name, budget={"seconds": 0.12})
    answer = paced.events(strop=strop, n=1) if stream else paced.ask(strop=strop).json()
    assert time.monotonic() - began < 2.0
    about = tools.about(answer)
    assert about["stopped"] == "deadline"
    assert about["degraded"] in DEGRADED
    assert tools.said(answer)
    assert paced.idle


@EVERY
def test_a_deadline_before_the_first_token_is_504_at_every_endpoint(serve, tools, name):
    server = serve(simulation={"latency": 30.0})
    for to in ("chat", "text", "responses"):
        if to == "text" and name in tools.NEED_TURNS:
            continue
        answer = server.ask(to=to, strop=chosen(tools, name, budget={"seconds": 0.05}))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "strategy_timeout")
        assert server.idle


@EVERY
@STREAMED
@pytest.mark.parametrize("tokens", [1, 20, 90])
def test_a_budget_is_kept_and_the_answer_says_so(whole, tools, name, stream, tokens):
    """A scorer is asked about all drafts at once, so its one-token verdicts may come on top."""
    strop = chosen(tools, name, budget={"tokens": tokens})
    answer = whole.events(strop=strop) if stream else whole.ask(strop=strop).json()
    about = tools.about(answer)
    phases = about["bill"]["phases"]
    verdicts = sum(phase["completion_tokens"] for tag, phase in phases.items() if tag in ("judge", "pairwise"))
    assert about["bill"]["total"]["completion_tokens"] - verdicts <= tokens
    assert verdicts <= 6
    if tokens < 90:
        assert about["stopped"] == "budget"
    assert tools.said(answer)
    assert whole.idle


@EVERY
@pytest.mark.parametrize(
    "budget", [{"calls": 1}, {"calls": 2}, {"seconds": 500, "calls": 128, "tokens": 65536}], ids=str
)
def test_calls_are_kept_too(whole, tools, name, budget):
    answer = whole.ask(strop=chosen(tools, name, budget=budget)).json()
    phases = answer["strop"]["bill"]["phases"]
    asked = sum(phase["calls"] for tag, phase in phases.items() if tag not in ("judge", "pairwise"))
    assert asked <= budget["calls"]


@EVERY
@STREAMED
def test_the_same_seed_is_served_the_same_under_a_budget_whatever_the_load(whole, paced, tools, name, stream):
    """Budgets end runs at places in the program, never at places in time."""
    fields: dict[str, Any] = {"strop": chosen(tools, name, budget={"tokens": 60}), "seed": 11, "temperature": 1.0}
    found = set()
    for server in (whole, paced):
        answer = server.events(**fields) if stream else server.ask(**fields).json()
        about = tools.about(answer)
        found.add((tools.said(answer), about["stopped"], about.get("degraded")))
    assert len(found) == 1
