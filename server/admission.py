"""Admission: so many requests at once, so many waiting, everyone else is told to come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from strop.strategies.kit.errors import EngineOverloaded


class Admission:
    """A bounded queue in front of the engines. Waiters are served in order of arrival; a cancelled one just leaves."""

    def __init__(self, concurrent: int, queued: int, *, retry_after: float = 1.0) -> None:
        self.queued = queued
        self.waiting = 0
        self.retry_after = retry_after
        self._slots = anyio.CapacityLimiter(concurrent)

    @property
    def active(self) -> int:
        """Requests being worked on."""
        return int(self._slots.borrowed_tokens)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a place; raises `EngineOverloaded` when the queue is full."""
        borrower = object()
        try:
            self._slots.acquire_on_behalf_of_nowait(borrower)
        except anyio.WouldBlock:
            await self._wait(borrower)
        try:
            yield
        finally:
            self._slots.release_on_behalf_of(borrower)

    async def _wait(self, borrower: object) -> None:
        if self.waiting >= self.queued:
            raise EngineOverloaded(
                f"{self.active} requests are running and {self.waiting} are waiting", retry_after=self.retry_after
            )
        self.waiting += 1
        try:
            await self._slots.acquire_on_behalf_of(borrower)
        finally:
            self.waiting -= 1
