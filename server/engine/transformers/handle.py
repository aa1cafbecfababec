"""The caller's side of a running request. Usable from any thread; awaiting works under asyncio and trio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
import anyio.lowlevel

from strop.server.engine.chat.types import TokenEvent, TokenRequest, TokenResult, Usage
from strop.server.engine.transformers.job import Job, Task


class Waker:
    """Lets a foreign thread wake one coroutine without blocking."""

    def __init__(self) -> None:
        native: Any = anyio.lowlevel.current_token().native_token
        # asyncio's event loop or trio's token
        self._soon: Callable[[Callable[[], None]], object] = (
            getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        )
        self._event = anyio.Event()

    def wake(self) -> None:
        """From any thread. RuntimeError if the event loop is gone."""
        self._soon(self._set)

    def _set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Return once `wake` was called since the last return."""
        await self._event.wait()
        self._event = anyio.Event()


async def finished(task: Task) -> None:
    """Wait for the end; raise the task's error; cancel the task if the waiting is cancelled."""
    waker = Waker()
    task.listen(waker.wake)
    try:
        while not task.done.is_set():
            await waker.wait()
    except BaseException:
        task.cancel()
        raise
    if task.error is not None:
        raise task.error


class Handle:
    """A submitted request. What it has cost and produced so far can be asked at any time, also after a cancellation."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @property
    def request(self) -> TokenRequest:
        """What was asked."""
        return self._job.request

    @property
    def done(self) -> bool:
        """Nothing more will come."""
        return self._job.done.is_set()

    @property
    def error(self) -> Exception | None:
        """Why the request failed, if it did."""
        return self._job.error

    def cancel(self, index: int | None = None) -> None:
        """Drop the request, or one draft of it, at the engine's next step. Returns at once."""
        if index is None:
            self._job.cancel()
        else:
            self._job.drop(index)

    def partials(self) -> list[TokenResult]:
        """The drafts as they are now, in order."""
        return self._job.results()

    def usage(self) -> Usage:
        """What was spent so far."""
        return self._job.usage()

    def wait(self, timeout: float | None = None) -> list[TokenResult]:
        """Block this thread until the end. TimeoutError after `timeout` seconds; raises the request's error."""
        if not self._job.done.wait(timeout):
            raise TimeoutError(f"the request is still running after {timeout} s")
        if self._job.error is not None:
            raise self._job.error
        return self.partials()

    async def results(self) -> list[TokenResult]:
        """Wait for the end. Raises the request's error. If the caller is cancelled, so is the request."""
        await finished(self._job)
        return self.partials()

    async def events(self) -> AsyncGenerator[TokenEvent]:
        """New tokens as they come, for a request submitted with `stream=True`; closing the iterator cancels the
        request.
        """
        waker = Waker()
        self._job.listen(waker.wake)
        try:
            over = False
            while not over:
                over = self.done  # read before draining: what came before the end is then in the queue
                while self._job.events:
                    yield self._job.events.popleft()
                if not over:
                    await waker.wait()
        finally:
            self._job.cancel()
        if self._job.error is not None:
            raise self._job.error
