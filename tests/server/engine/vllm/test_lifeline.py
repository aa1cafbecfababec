"""An engine that dies is replaced, as often as it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import pytest

from strop.server.engine.vllm.lifeline import Lifeline
from strop.strategies.kit.errors import EngineUnavailable


@dataclass
class Mayfly:
    """An engine that dies when told."""

    dead: bool = False
    closed: bool = False
    trouble: Exception | None = None

    async def close(self) -> None:
        self.closed = True
        if self.trouble:
            raise self.trouble


@dataclass
class Nursery:
    """Boots engines; the first `failures` boots after the first one fail."""

    failures: int = 0
    born: list[Mayfly] = field(default_factory=list)

    async def boot(self) -> Mayfly:
        if self.born and self.failures:
            self.failures -= 1
            raise OSError("no memory")
        self.born.append(Mayfly())
        return self.born[-1]

    def lifeline(self) -> Lifeline[Mayfly]:
        return Lifeline(self.boot, interval=0.01, pauses=(0.0, 0.01))


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


async def test_a_dead_engine_is_replaced_and_closed() -> None:
    nursery = Nursery()
    lifeline = nursery.lifeline()
    async with lifeline.running() as first:
        assert lifeline.health().ready
        first.dead = True
        assert not lifeline.health().ready
        with pytest.raises(EngineUnavailable, match="started again"):
            _ = lifeline.engine
        await until(lambda: lifeline.health().ready)
        assert lifeline.engine is nursery.born[1]
        assert (first.closed, lifeline.rebuilt) == (True, 1)
    assert nursery.born[1].closed


async def test_boots_that_fail_are_repeated_and_health_says_why() -> None:
    nursery = Nursery(failures=3)
    lifeline = nursery.lifeline()
    async with lifeline.running() as first:
        first.dead = True
        await until(lambda: "no memory" in lifeline.health().detail)
        await until(lambda: lifeline.health().ready)
        assert len(nursery.born) == 2


async def test_an_engine_that_cannot_be_closed_is_replaced_all_the_same() -> None:
    lifeline = Nursery().lifeline()
    async with lifeline.running() as first:
        first.trouble, first.dead = RuntimeError("stuck"), True
        await until(lambda: lifeline.health().ready)


async def test_a_suspicion_is_looked_at_at_once() -> None:
    nursery = Nursery()
    lifeline = Lifeline(nursery.boot, interval=60.0, pauses=(0.0,))
    async with lifeline.running() as first:
        first.dead = True
        lifeline.suspect()
        await until(lambda: lifeline.health().ready)


async def test_the_first_boot_may_fail_and_then_nothing_runs() -> None:
    async def refuse() -> Mayfly:
        raise ImportError("no vLLM")

    lifeline: Lifeline[Mayfly] = Lifeline(refuse)
    with pytest.raises(ImportError):
        async with lifeline.running():
            pytest.fail("never entered")
    assert not lifeline.health().ready


async def test_an_error_of_the_server_passes_through_unwrapped_and_the_engine_is_closed() -> None:
    nursery = Nursery()
    with pytest.raises(ZeroDivisionError):
        async with nursery.lifeline().running():
            raise ZeroDivisionError
    assert nursery.born[0].closed
