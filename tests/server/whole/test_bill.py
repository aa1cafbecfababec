"""The bill identity: what the engine counted, what the client is told and what /metrics shows, however a run ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from strop.strategies import CATALOGUE

COUNTED = ("prompt", "completion", "calls")
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
EVERY = pytest.mark.parametrize("name", CATALOGUE)


class Spent:
    """What the engine and the metrics counted between two moments."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._engine, self._metrics = server.counted, server.metered()
        self.engine: dict[str, int] = {}
        self.metrics: dict[str, int] = {}

    def settle(self, tools: Any) -> None:
        tools.eventually(lambda: self._server.idle)
        now, page = self._server.counted, self._server.metered()
        self.engine = {name: getattr(now, name) - getattr(self._engine, name) for name in COUNTED}
        self.metrics = {name: page[name] - self._metrics[name] for name in COUNTED}


@pytest.fixture
def spent(tools: Any) -> Any:
    @contextmanager
    def measure(server: Any) -> Iterator[Spent]:
        found = Spent(server)
        yield found
        found.settle(tools)
        assert found.metrics == found.engine

    return measure


@pytest.fixture(scope="module")
def paced(tools: Any) -> Iterator[Any]:
    """A server whose drafts take their time."""
    with tools.Whole(simulation={"tokens_per_second": 200.0}) as server:
        yield server


def billed(strop: Any) -> dict[str, int]:
    """The engine's part of a bill; its phases add up to it."""
    total = strop["bill"]["total"]
    for name, value in total.items():
        assert sum(phase[name] for phase in strop["bill"]["phases"].values()) == pytest.approx(value, abs=1e-5)
    return {name: total[f"{name}_tokens" if name != "calls" else name] for name in COUNTED}


def ask(server: Any, tools: Any, to: str, stream: bool, **fields: Any) -> Any:
    if stream:
        return server.events(to=to, **fields)
    answer = server.ask(to=to, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@EVERY
@STREAMED
@pytest.mark.parametrize("to", ["chat", "text", "responses"])
def test_of_a_request_that_is_answered(whole, tools, spent, name, stream, to):
    if to == "text" and name in tools.NEED_TURNS:
        pytest.skip("needs turns")
    with spent(whole) as counted:
        answer = ask(whole, tools, to, stream, strop={"strategy": name, **tools.KNOBS[name]}, temperature=1.0)
    assert billed(tools.about(answer)) == counted.engine
    assert counted.engine["completion"] > 0


@EVERY
def test_of_a_request_for_several_choices(whole, tools, spent, name):
    with spent(whole) as counted:
        answer = whole.ask(n=2, strop={"strategy": name, **tools.KNOBS[name]}, seed=4).json()
    assert billed(answer["strop"]) == counted.engine
    total = answer["strop"]["bill"]["total"]
    assert answer["usage"]["completion_tokens"] == total["completion_tokens"] + total["injected_tokens"]


@EVERY
@STREAMED
@pytest.mark.parametrize("to", ["chat", "text", "responses"])
def test_of_a_request_whose_client_hangs_up(paced, tools, spent, name, stream, to):
    if to == "text" and name in tools.NEED_TURNS:
        pytest.skip("needs turns")
    before = paced.counted.completion
    longest = {"max_tokens": 500} if to != "responses" else {}
    with (
        spent(paced) as counted,
        paced.raw(to=to, stream=stream, strop={"strategy": name, **tools.KNOBS[name]}, **longest),
    ):
        tools.eventually(lambda: paced.counted.completion > before + 20)
    assert counted.engine["completion"] > 20


@EVERY
@STREAMED
def test_of_a_request_that_its_deadline_ends(paced, tools, spent, name, stream):
    strop = {"strategy": name, **tools.KNOBS[name], "budget": {"seconds": 0.12}}
    with spent(paced) as counted:
        answer = ask(paced, tools, "chat", stream, strop=strop)
    about = tools.about(answer)
    assert about["stopped"] == "deadline"
    assert billed(about) == counted.engine


@EVERY
@STREAMED
@pytest.mark.parametrize("budget", [{"tokens": 20}, {"calls": 2}, {"tokens": 130}], ids=str)
def test_of_a_request_that_its_budget_ends(whole, tools, spent, name, stream, budget):
    with spent(whole) as counted:
        answer = ask(whole, tools, "chat", stream, strop={"strategy": name, **tools.KNOBS[name], "budget": budget})
    about = tools.about(answer)
    assert billed(about) == counted.engine
    if budget == {"tokens": 20}:
        assert about["stopped"] == "budget"


@pytest.mark.parametrize("faults", ["crash:0.5", "overload:0.3,garbage:0.3"])
@EVERY
def test_of_requests_whose_engine_fails(serve, tools, spent, name, faults):
    server = serve(simulation={"faults": faults})
    statuses = set()
    for seed in range(24):
        with spent(server) as counted:
            answer = server.ask(strop={"strategy": name, **tools.KNOBS[name]}, seed=seed)
        statuses.add(answer.status_code)
        if answer.status_code == 200:
            assert billed(answer.json()["strop"]) == counted.engine
        else:
            assert ("x-should-retry" in answer.headers) == (counted.engine["completion"] > 0)
    assert 200 in statuses


def test_of_several_prompts_of_which_one_fails(whole, spent):
    with spent(whole):
        assert whole.ask(to="text", prompt=["Say A", "Say B", "x " * 200_000]).status_code == 400
