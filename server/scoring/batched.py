"""Batch scoring across requests. One owner task makes the backend calls, so a caller that leaves strands nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio

from strop.strategies.kit.errors import EngineUnavailable, ScorerError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class _Job(Generic[T, R]):
    items: Sequence[T]
    done: anyio.Event = field(default_factory=anyio.Event)
    results: list[R] | None = None
    error: Exception | None = None
    abandoned: bool = False


class Batched(Generic[T, R]):
    """`backend` maps a list of items to as many results; callers' items are joined into one list per backend call.

    While one batch is being computed the next gathers, so the batch grows with the load and an idle server adds no
    wait. A caller's items stay together; `most` bounds a batch unless one caller alone brings more.
    """

    def __init__(self, backend: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, most: int = 256) -> None:
        self._backend = backend
        self._most = most
        self._queue: deque[_Job[T, R]] = deque()
        self._arrived: anyio.Event | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the owner; on leaving it ends and callers that still wait get an error."""
        self._arrived = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._own)
            try:
                yield
            finally:
                self._arrived = None
                group.cancel_scope.cancel()
                for job in self._queue:
                    job.error = EngineUnavailable("the scorer stopped")
                    job.done.set()
                self._queue.clear()

    async def __call__(self, items: Sequence[T]) -> list[R]:
        """Results for `items`, in order. A failure of the backend is raised to every caller of that batch."""
        if self._arrived is None:
            raise EngineUnavailable("the scorer is not running")
        job: _Job[T, R] = _Job(items)
        self._queue.append(job)
        self._arrived.set()
        try:
            await job.done.wait()
        finally:
            job.abandoned = True
        if job.error is not None:
            raise job.error
        return job.results or []

    async def _own(self) -> None:
        while (arrived := self._arrived) is not None:
            await arrived.wait()
            self._arrived = anyio.Event()
            while self._queue:
                await self._score(self._next_batch())

    def _next_batch(self) -> list[_Job[T, R]]:
        batch: list[_Job[T, R]] = []
        size = 0
        while self._queue and (not batch or size + len(self._queue[0].items) <= self._most):
            job = self._queue.popleft()
            if not job.abandoned:
                batch.append(job)
                size += len(job.items)
        return batch

    async def _score(self, jobs: list[_Job[T, R]]) -> None:
        items = [item for job in jobs for item in job.items]
        try:
            results = list(await self._backend(items)) if items else []
            if len(results) != len(items):
                raise ScorerError(f"the scorer returned {len(results)} results for {len(items)} items")
            for job in jobs:
                job.results, results = results[: len(job.items)], results[len(job.items) :]
        except Exception as error:  # noqa: BLE001  # boundary: the callers raise it, the owner goes on
            for job in jobs:
                job.error = error
        finally:
            for job in jobs:
                job.error = job.error or (None if job.results is not None else EngineUnavailable("the scorer stopped"))
                job.done.set()
