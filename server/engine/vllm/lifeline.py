"""Keeps one engine alive: boots it, notices when it is dead, and boots another while the server goes on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Generic, Protocol, TypeVar

import anyio

from strop.server.engine.base import Health
from strop.strategies.kit.errors import EngineUnavailable
from strop.strategies.kit.fan import first_cause

log = logging.getLogger(__name__)


class Mortal(Protocol):
    """What a lifeline needs to know of an engine."""

    @property
    def dead(self) -> bool:
        """Whether it will never answer again."""
        ...

    async def close(self) -> None:
        """Free what is left of it."""
        ...


E = TypeVar("E", bound=Mortal)


class Lifeline(Generic[E]):
    """The engine of now. A dead one is replaced after `pauses` seconds, the last of which repeats.

    Looks every `interval` seconds, and at once when `suspect` is called.
    """

    def __init__(
        self,
        boot: Callable[[], Awaitable[E]],
        *,
        interval: float = 0.25,
        pauses: tuple[float, ...] = (0.0, 1.0, 5.0, 30.0),
    ) -> None:
        self._boot, self._interval, self._pauses = boot, interval, pauses
        self._engine: E | None = None
        self._why = "the model is not loaded"
        self._alarm = anyio.Event()
        self.rebuilt = 0

    @property
    def engine(self) -> E:
        """The living engine. EngineUnavailable if there is none."""
        if self._engine is None or self._engine.dead:
            raise EngineUnavailable(self.health().detail)
        return self._engine

    @property
    def latest(self) -> E | None:
        """The latest engine, dead or alive."""
        return self._engine

    def health(self) -> Health:
        """Whether there is a living engine."""
        if self._engine is None:
            return Health(False, self._why)
        return Health(False, "the engine died and is being started again") if self._engine.dead else Health(True)

    def suspect(self) -> None:
        """Somebody saw the engine fail: look at it now."""
        self._alarm.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[E]:
        """Boot, watch, and close at the end."""
        self._engine = first = await self._boot()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch)
                yield first
                group.cancel_scope.cancel()
        except BaseExceptionGroup as failures:  # of the body: the watch never fails
            raise first_cause(failures) from None
        finally:
            last, self._engine, self._why = self._engine, None, "the engine was stopped"
            if last is not None:
                with anyio.CancelScope(shield=True):
                    await last.close()

    async def _watch(self) -> None:
        while True:
            with anyio.move_on_after(self._interval):
                await self._alarm.wait()
            self._alarm = anyio.Event()
            if self._engine is not None and self._engine.dead:
                await self._replace(self._engine)

    async def _replace(self, dead: E) -> None:
        began = monotonic()
        log.error("the engine is dead; starting another")
        self._engine, self._why = None, "the engine died and is being started again"
        try:
            await dead.close()
        except Exception:  # boundary: a dead engine may fail to shut down; its successor does not depend on it
            log.exception("the dead engine did not shut down cleanly")
        attempt = 0
        while self._engine is None:
            await anyio.sleep(self._pauses[min(attempt, len(self._pauses) - 1)])
            attempt += 1
            try:
                self._engine = await self._boot()
            except Exception as failure:  # boundary: whatever prevents a boot may pass; health tells what it was
                log.exception("the engine could not be started again (attempt %d)", attempt)
                self._why = f"the engine could not be started again: {failure}"
        self.rebuilt += 1
        log.warning("the engine is back after %.1f s", monotonic() - began)
