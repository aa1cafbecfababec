"""Asks, a metrics page to look at, and an engine that counts what it does while it is stopped at any point."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry

from strop.server.observe.metrics import Metrics
from strop.server.service import Ask, Principal, Selection
from strop.strategies.kit import Chat, Message, Strategy
from strop.strategies.kit.errors import EngineError
from strop.strategies.kit.knobs import knobs_of
from strop.strategies.kit.ops import Generate, Generated, Op, Result, Score, Scored
from strop.strategies.kit.span import Receipt, Span
from strop.strategies.kit.types import Draft, Usage


class Page:
    """The numbers of a `Metrics`."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples with these labels."""
        samples = [s for family in self.metrics.registry.collect() for s in family.samples if s.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def labels(self, name: str, label: str) -> set[str]:
        """The values a label takes in a series."""
        families = self.metrics.registry.collect()
        return {s.labels[label] for family in families for s in family.samples if s.name == name}

    def tokens(self, **labels: str) -> dict[str, int]:
        """`strop_tokens_total` by type."""
        kinds = ("prompt", "prompt_cached", "injected", "completion", "refinement", "judge")
        return {kind: int(self.value("strop_tokens_total", type=kind, **labels)) for kind in kinds}


@pytest.fixture
def page() -> Page:
    return Page()


def strategy_of(body: Callable[..., Any], *, ranked: bool = False) -> Strategy:
    return Strategy(body.__name__, body, knobs_of(body), "", "", "", "", frozenset(), ranked)


async def direct(ctx: Any, question: Chat) -> Draft:
    return (await ctx.generate(question))[0]


@pytest.fixture
def asking() -> Callable[..., Ask]:
    """`asking(strategy=..., model=..., tenant=..., id=..., retry=...)`."""

    def made(**given: Any) -> Ask:
        strategy = given.pop("strategy", None) or strategy_of(direct)
        principal = Principal(given.pop("tenant", "default"))
        fields = {"id": "chatcmpl-1", "model": "tiny", **given}
        return Ask(
            chat=Chat((Message("user", "What is 2 + 2?"),)),
            selection=Selection(strategy, {}),
            principal=principal,
            **fields,
        )

    return made


class Meter:
    """An engine of 10 prompt tokens (4 cached) per op and one token per tick; its own count is in `counted`.

    Ops after the first `fails_after` fail at token `fails_at`.
    A score asks a judge on the op's behalf: 3 tokens per draft.
    """

    def __init__(self, *, length: int = 5, tick: float = 0.0, fails_after: float = math.inf, fails_at: int = 2) -> None:
        self.length = length
        self.tick = tick
        self.fails_after = fails_after
        self.fails_at = fails_at
        self.counted = Usage()
        self.served = 0

    async def __call__(self, op: Op, span: Span) -> Result:
        self.served += 1
        failing = self.served > self.fails_after
        if isinstance(op, Score):
            for i in range(len(op.drafts)):
                await self._decode(span.child(f"judge[{i}]").receipt, 1, 3, failing)
            return Scored(tuple(float(i) for i in range(len(op.drafts))), usage=span.receipt.usage)
        assert isinstance(op, Generate)
        limit = op.chat.sampling.max_tokens
        length = self.length if limit is None else min(limit, self.length)
        drafts: list[Draft] = []
        span.receipt.partials = lambda: drafts
        await self._decode(span.receipt, op.n, length, failing, drafts)
        finish = "length" if length < self.length else "stop"
        done = tuple(Draft("word " * length, finish, n_tokens=length) for _ in range(op.n))
        return Generated(done, usage=span.receipt.usage)

    async def _decode(
        self, receipt: Receipt, n: int, length: int, failing: bool, drafts: list[Draft] | None = None
    ) -> None:
        self._spend(receipt, Usage(prompt=10 * n, cached=4 * n, calls=n))
        for done in range(length):
            await anyio.sleep(self.tick)
            if failing and done == self.fails_at:
                raise EngineError("the engine fell over")
            self._spend(receipt, Usage(completion=n, seconds=1 / 128))
            if drafts is not None:
                drafts[:] = [Draft("word " * (done + 1), "length", n_tokens=done + 1)] * n

    def _spend(self, receipt: Receipt, usage: Usage) -> None:
        receipt.own += usage
        self.counted += usage


@pytest.fixture
def meter() -> type[Meter]:
    return Meter


@pytest.fixture
def as_strategy() -> Callable[..., Strategy]:
    return strategy_of
