"""Gated: an engine whose ops wait until the test lets them go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import anyio

from strop.strategies.kit.context import Perform
from strop.strategies.kit.ops import Op, Result
from strop.strategies.kit.span import Span


def _every_op(op: Op, span: Span) -> bool:  # noqa: ARG001
    return True


class Gated:
    """A `Perform` that holds ops at a gate, before or after `inner` does its work, and counts what became of them.

    `holds(op, span)` chooses the ops to hold; the others pass. An op held "after" has already cost what it costs, so a
    cancelled one shows up in the bill. `started`, `finished`, `failed` and `cancelled` count ops, held or not.
    """

    def __init__(
        self,
        inner: Perform,
        *,
        holds: Callable[[Op, Span], bool] = _every_op,
        when: Literal["before", "after"] = "before",
    ) -> None:
        self.started = self.finished = self.failed = self.cancelled = 0
        self._inner = inner
        self._holds = holds
        self._when = when
        self._gate = anyio.Event()
        self._arrived = anyio.Condition()

    @property
    def in_flight(self) -> int:
        """Ops neither finished nor failed nor cancelled."""
        return self.started - self.finished - self.failed - self.cancelled

    def open(self) -> None:
        """Let every op go, now and later."""
        self._gate.set()

    async def arrivals(self, count: int) -> None:
        """Wait until `count` ops have started."""
        async with self._arrived:
            while self.started < count:
                await self._arrived.wait()

    async def __call__(self, op: Op, span: Span) -> Result:
        self.started += 1
        try:
            async with self._arrived:
                self._arrived.notify_all()
            result = await self._held(op, span)
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        except Exception:
            self.failed += 1
            raise
        self.finished += 1
        return result

    async def _held(self, op: Op, span: Span) -> Result:
        held = self._holds(op, span)
        if held and self._when == "before":
            await self._gate.wait()
        result = await self._inner(op, span)
        if held and self._when == "after":
            await self._gate.wait()
        return result
