"""Shared by the tests of strategies: make a question, turn a function into a strategy, run it, look at everything."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from strop.strategies import CATALOGUE
from strop.strategies.kit import Budget, Chat, Message, Perform, Request, Sampling, Strategy, run
from strop.strategies.kit.events import Event, Finished, Noted, OpDone, Outcome
from strop.strategies.kit.knobs import knobs_of
from strop.strategies.kit.ops import Op, Result
from strop.strategies.kit.span import Span
from strop.strategies.kit.trace import Trace


@dataclass
class Served:
    """One run: how it ended, and every event on the way."""

    outcome: Outcome
    events: list[Event]
    trace: Trace

    @property
    def texts(self) -> list[str]:
        return [answer.text for answer in self.outcome.answers]

    @property
    def ops(self) -> list[OpDone]:
        return [event for event in self.events if isinstance(event, OpDone)]

    @property
    def notes(self) -> dict[str, Any]:
        return {name: fact for event in self.events if isinstance(event, Noted) for name, fact in event.facts.items()}


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
def ask() -> Callable[..., Chat]:
    def asked(text: str = "What is 2 + 2?", **sampling: Any) -> Chat:
        return Chat((Message("user", text),), Sampling(**sampling))

    return asked


def strategy(body: Callable[..., Any], *, ranked: bool = False) -> Strategy:
    return Strategy(body.__name__, body, knobs_of(body), "", "", "", "", frozenset(), ranked)


@pytest.fixture
def serve(ask: Callable[..., Chat]) -> Serve:
    """`await serve(name_or_function, perform, question=..., knobs={...}, budget=..., seed=..., choices=...)`.

    A run that ends in an error though something could be served fails the test unless it says `failing=True`.
    """

    async def served(
        body: str | Callable[..., Any],
        perform: Perform,
        question: Chat | str = "What is 2 + 2?",
        *,
        ranked: bool = False,
        budget: Budget | None = None,
        seed: int | None = None,
        choices: int = 1,
        observe: tuple[Callable[[Event], None], ...] = (),
        failing: bool = False,
        **knobs: Any,
    ) -> Served:
        events: list[Event] = []
        trace = Trace()
        request = Request(
            CATALOGUE[body] if isinstance(body, str) else strategy(body, ranked=ranked),
            ask(question) if isinstance(question, str) else question,
            knobs,
            budget or Budget(),
            seed=seed,
            choices=choices,
            fence="fence",
        )
        outcome = await run(request, perform, observe=[events.append, trace, *observe])
        assert isinstance(events[-1], Finished)
        assert failing or outcome.error is None, outcome.error
        return Served(outcome, events, trace)

    return served


class Jittered:
    """Delays every op by a random moment, so that ops finish in another order on every run."""

    def __init__(self, inner: Perform, seed: int, longest: float = 0.004) -> None:
        self._inner, self._random, self._longest = inner, random.Random(seed), longest

    async def __call__(self, op: Op, span: Span) -> Result:
        await anyio.sleep(self._random.random() * self._longest)
        result = await self._inner(op, span)
        await anyio.sleep(self._random.random() * self._longest)
        return result


@pytest.fixture
def jittered() -> type[Jittered]:
    return Jittered
