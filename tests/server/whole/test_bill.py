"""The bill identity: what the engine counted, what the client is told and what /metrics shows, however a run ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from typing import Any

import pytest

COUNTED = ("prompt", "completion", "calls")
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


class Spent:
    """What the engine counted since a moment; at the end the metrics must have counted the same."""

    def __init__(self, server: Any, eventually: Callable[..., None]) -> None:
        self._server, self._eventually = server, eventually
        self._first, self._metrics = server.counted, server.metered()
        self._last = self._first

    def since(self) -> dict[str, int]:
        """Since the last call, or the beginning."""
        now, before, self._last = self._server.counted, self._last, self._server.counted
        return {name: getattr(now, name) - getattr(before, name) for name in COUNTED}

    def check(self) -> dict[str, int]:
        """Everything, once the server is idle."""
        self._eventually(lambda: self._server.idle)
        now, page = self._server.counted, self._server.metered()
        engine = {name: getattr(now, name) - getattr(self._first, name) for name in COUNTED}
        assert {name: page[name] - self._metrics[name] for name in COUNTED} == engine
        return engine


@pytest.fixture
def spent(tools: Any) -> Callable[[Any], Spent]:
    return lambda server: Spent(server, tools.eventually)


@pytest.fixture(scope="module")
def paced(tools: Any) -> Iterator[Any]:
    """A server whose drafts take their time."""
    with tools.Whole(simulation={"tokens_per_second": 25.0}) as server:
        yield server


def billed(strop: Any) -> dict[str, int]:
    """The engine's part of a bill; its phases add up to it."""
    total = strop["bill"]["total"]
    for name, value in total.items():
        assert sum(phase[name] for phase in strop["bill"]["phases"].values()) == pytest.approx(value, abs=1e-5)
    return {name: total[f"{name}_tokens" if name != "calls" else name] for name in COUNTED}


def ask(server: Any, stream: bool, **fields: Any) -> Any:
    if stream:
        return server.events(**fields)
    answer = server.ask(**fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_of_requests_that_are_answered_at_every_endpoint_whole_and_streamed(whole, tools, spent, name):
    counted = spent(whole)
    strop = {"strategy": name, **tools.KNOBS[name]}
    for to, stream in product(tools.ROUTES, (False, True)):
        if to == "text" and name in tools.NEED_TURNS:
            continue
        about = tools.about(ask(whole, stream, to=to, strop=strop, temperature=1.0))
        assert billed(about) == counted.since(), (to, stream)
    two = whole.ask(n=2, strop=strop, seed=4)
    if two.status_code == 200:
        assert billed(two.json()["strop"]) == counted.since()
        total = two.json()["strop"]["bill"]["total"]
        assert two.json()["usage"]["completion_tokens"] == total["completion_tokens"] + total["injected_tokens"]
    else:
        assert two.json()["error"]["param"] == "n"
    assert counted.check()["completion"] > 0


def test_of_requests_that_a_budget_ends(whole, tools, spent, name):
    counted = spent(whole)
    for budget, stream in product(({"tokens": 20}, {"calls": 2}, {"tokens": 130}), (False, True)):
        strop = {"strategy": name, **tools.KNOBS[name], "budget": budget}
        if name not in tools.ANYTIME:
            whole.ask(strop=strop, stream=stream)
            continue
        about = tools.about(ask(whole, stream, strop=strop))
        assert billed(about) == counted.since(), (budget, stream)
        assert budget != {"tokens": 20} or about["stopped"] == "budget"
    counted.check()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("to", ["chat", "text", "responses"])
def test_of_requests_whose_clients_hang_up(paced, tools, spent, to, stream):
    """One client per strategy, all at once; their bills are in the metrics only."""
    counted, before = spent(paced), paced.counted
    names = [name for name in tools.SERVED if to != "text" or name not in tools.NEED_TURNS]
    longest = {"max_tokens": 500} if to != "responses" else {}
    with ExitStack() as clients:
        for name in names:
            strop = {"strategy": name, **tools.KNOBS[name]}
            clients.enter_context(paced.raw(to=to, stream=stream, strop=strop, **longest))
        tools.eventually(lambda: paced.counted.completion > before.completion + 10 * len(names))
        assert paced.service.admission.active > len(names) // 2
    assert counted.check()["completion"] > 10 * len(names)


@STREAMED
def test_of_requests_that_a_deadline_ends(paced, tools, spent, stream):
    """Every strategy, all at once: the bills add up to what the engine did."""

    def one(name: str) -> dict[str, int]:
        strop = {"strategy": name, **tools.KNOBS[name], "budget": {"seconds": 0.5}}
        about = tools.about(ask(paced, stream, strop=strop))
        assert about["stopped"] == "deadline", name
        return billed(about)

    counted = spent(paced)
    with ThreadPoolExecutor(len(tools.SERVED)) as pool:
        bills = list(pool.map(one, tools.ANYTIME))
    assert {name: sum(bill[name] for bill in bills) for name in COUNTED} == counted.check()


@pytest.mark.parametrize("faults", ["crash:0.5", "overload:0.3,garbage:0.3"])
def test_of_requests_whose_engine_fails(serve, tools, spent, faults):
    server = serve(simulation={"faults": faults})
    counted = spent(server)
    served = set()
    for name, seed in product(tools.SERVED, range(10)):
        answer = server.ask(strop={"strategy": name, **tools.KNOBS[name]}, seed=seed)
        did = counted.since()
        if answer.status_code == 200:
            served.add(name)
            assert billed(answer.json()["strop"]) == did, (name, seed)
        else:
            assert ("x-should-retry" in answer.headers) == (did["completion"] > 0), (name, seed)
    counted.check()
    assert served == set(tools.SERVED)


def test_of_several_prompts_of_which_one_fails(whole, spent):
    counted = spent(whole)
    assert whole.ask(to="text", prompt=["Say A", "Say B", "x " * 200_000]).status_code == 400
    counted.check()
