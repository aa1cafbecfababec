"""Requests that do not run to their end: engines stop, what is served says that it is less, nothing is left behind.

Every test asks with every strategy of the catalogue at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
DEGRADED = {"kept", "unselected", "partial"}


@pytest.fixture(scope="module")
def paced(tools: Any) -> Iterator[Any]:
    """A server whose drafts take two seconds each."""
    with tools.Whole(simulation={"tokens_per_second": 40.0}, sse_keep_alive_interval=0.1) as server:
        yield server


@pytest.fixture(scope="module")
def sleepy(tools: Any) -> Iterator[Any]:
    """A server that takes its time before the first token."""
    with tools.Whole(simulation={"latency": 30.0}) as server:
        yield server


def chosen(tools: Any, name: str, **more: Any) -> dict[str, Any]:
    return {"strategy": name, **tools.KNOBS[name], **more}


def every(names: list[str], one: Callable[[str], None]) -> None:
    """Call with the name of every strategy, all at once; the first failure is raised."""
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(one, names))


def answer_of(server: Any, stream: bool, **fields: Any) -> Any:
    return server.events(**fields) if stream else server.ask(**fields).json()


@STREAMED
def test_clients_that_hang_up_stop_the_engine_and_the_strategies(paced, tools, stream):
    before = paced.counted
    with ExitStack() as clients:
        for name in tools.SERVED:
            connection = clients.enter_context(paced.raw(stream=stream, strop=chosen(tools, name), max_tokens=2000))
            if stream:
                assert b" 200 " in connection.recv(65536)
        tools.eventually(lambda: paced.counted.completion > before.completion + 3 * len(tools.SERVED))
        assert not paced.idle
    tools.eventually(lambda: paced.idle, seconds=2.0)
    left = paced.counted
    time.sleep(0.1)
    assert paced.counted == left, "a strategy went on after its client had left"


@STREAMED
def test_clients_that_hang_up_before_the_first_token_stop_the_engine_too(sleepy, tools, stream):
    with ExitStack() as clients:
        for name in tools.SERVED:
            clients.enter_context(sleepy.raw(strop=chosen(tools, name), stream=stream))
        tools.eventually(lambda: sleepy.service.admission.active == len(tools.SERVED))
        tools.eventually(lambda: sleepy.counted.running >= len(tools.SERVED))
    tools.eventually(lambda: sleepy.idle, seconds=2.0)
    assert sleepy.counted.completion == 0


@STREAMED
def test_a_deadline_is_kept_and_the_answer_says_so(paced, tools, stream):
    def one(name: str) -> None:
        began = time.monotonic()
        answer = answer_of(paced, stream, strop=chosen(tools, name, budget={"seconds": 0.5}))
        assert time.monotonic() - began < 3.0, name
        about = tools.about(answer)
        assert about["stopped"] == "deadline", name
        assert about["degraded"] in DEGRADED, name
        assert tools.said(answer), name

    every(tools.ANYTIME, one)
    assert paced.idle


@pytest.mark.parametrize("to", ["chat", "text", "responses"])
def test_a_deadline_before_the_first_token_is_504(sleepy, tools, to):
    def one(name: str) -> None:
        if to == "text" and name in tools.NEED_TURNS:
            return
        answer = sleepy.ask(to=to, strop=chosen(tools, name, budget={"seconds": 0.1}))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "strategy_timeout"), name

    every(tools.SERVED, one)
    assert sleepy.idle


@STREAMED
@pytest.mark.parametrize("tokens", [1, 20, 90])
def test_a_budget_of_tokens_is_kept_and_the_answer_says_so(whole, tools, stream, tokens):
    """A scorer is asked about all drafts at once, so its one-token verdicts may come on top."""
    for name in tools.ANYTIME:
        answer = answer_of(whole, stream, strop=chosen(tools, name, budget={"tokens": tokens}))
        about = tools.about(answer)
        assert generated(about, "completion_tokens") <= tokens, name
        assert tokens == 90 or about["stopped"] == "budget", name
        assert tools.said(answer), name
    assert whole.idle


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_a_budget_of_calls_is_kept(whole, tools, calls):
    for name in tools.ANYTIME:
        answer = whole.ask(strop=chosen(tools, name, budget={"calls": calls})).json()
        assert generated(answer["strop"], "calls") <= calls, name


def test_a_strategy_that_plans_first_and_is_ended_early_says_that_there_is_no_answer(whole, tools):
    for name in set(tools.SERVED) - set(tools.ANYTIME):
        answer = whole.ask(strop=chosen(tools, name, budget={"calls": 1}))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "budget_exceeded"), name
        assert answer.headers["x-should-retry"] == "false", name
        assert whole.idle


def generated(about: Any, what: str) -> int:
    """Of the whole bill, without what scorers did."""
    phases = about["bill"]["phases"].items()
    return sum(phase[what] for tag, phase in phases if tag not in ("judge", "pairwise"))


@STREAMED
def test_the_same_seed_is_served_the_same_under_a_budget_whatever_the_load(whole, paced, tools, stream):
    """Budgets end runs at places in the program, never at places in time."""

    def one(name: str) -> None:
        fields: dict[str, Any] = {"strop": chosen(tools, name, budget={"tokens": 60}), "seed": 11, "temperature": 1.0}
        found = set()
        for server in (whole, paced):
            answer = answer_of(server, stream, **fields)
            about = tools.about(answer)
            found.add((tools.said(answer), about["stopped"], about.get("degraded")))
        assert len(found) == 1, name

    every(tools.ANYTIME, one)
