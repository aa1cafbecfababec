"""Drafts that are already known, revealed token by token at the speed of the simulated model and counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from strop.server.engine.simulated.faults import Fault
from strop.server.engine.simulated.planning import Planned
from strop.strategies.kit.errors import EngineError
from strop.strategies.kit.fan import fan_out
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.types import Draft, Usage

_SLOWER = 10.0  # times, for the fault `slow`
_SLOW = 0.5  # seconds that it takes at least


class Revealing:
    """One op's drafts. What was revealed when the caller is cancelled is what is billed."""

    def __init__(
        self,
        drafts: list[Planned],
        span: Span,
        post: Callable[[Span, Usage], None],
        slots: anyio.CapacityLimiter | None,
    ) -> None:
        self._drafts = drafts
        self._done = [0] * len(drafts)
        self._span = span
        self._post = post
        self._slots = slots

    async def perform(self, latency: float, speed: float, fault: Fault | None) -> None:
        """Reveal all drafts; `speed` is in tokens per second and draft, 0 is instant."""
        if fault == "hang":
            await anyio.sleep_forever()
        if fault == "slow":
            latency, speed = max(_SLOW, _SLOWER * latency), speed / _SLOWER

        async def one(index: int) -> None:
            async with self._slot():
                await self._one(index, latency, speed, breaks=fault in ("crash", "die"))

        if len(self._drafts) == 1:
            await one(0)
        elif latency or speed or self._slots or fault:
            await fan_out(one, len(self._drafts))
        else:
            for index in range(len(self._drafts)):
                self._reveal(index, len(self._drafts[index].new))

    def partials(self) -> list[Draft]:
        """The drafts as they stand."""
        return [draft.at(done) for draft, done in zip(self._drafts, self._done, strict=True) if done]

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._slots is None:
            yield
            return
        borrower = object()
        await self._slots.acquire_on_behalf_of(borrower)
        try:
            yield
        finally:
            self._slots.release_on_behalf_of(borrower)

    async def _one(self, index: int, latency: float, speed: float, *, breaks: bool) -> None:
        if latency:
            await anyio.sleep(latency)
        total = len(self._drafts[index].new)
        last = total // 2 if breaks else total
        began = anyio.current_time()
        while speed and self._done[index] < last:
            await anyio.sleep_until(began + self._done[index] / speed)
            due = 1 + int((anyio.current_time() - began) * speed)
            self._reveal(index, min(last, max(due, self._done[index] + 1)))
        self._reveal(index, last)
        if breaks:
            raise EngineError("a simulated crash in the middle of an answer")

    def _reveal(self, index: int, upto: int) -> None:
        """Count tokens up to `upto`, and tell whoever listens, token by token."""
        draft, done = self._drafts[index], self._done[index]
        if upto > done:
            self._done[index] = upto
            self._post(self._span, Usage(completion=upto - done))
        if self._span.live is None:
            return
        before = len(draft.start.tokens)
        for place in range(before + done, before + upto):
            tokens = draft.columns[place : place + 1]
            if tokens.texts[0]:
                self._span.live(Delta(tokens.texts[0], index, tokens=tokens))
