"""Run a request and answer it as a stream of server-sent events. What the events say is the business of a `Script`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import anyio
from anyio.abc import ObjectReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from strop.server.api import sse
from strop.server.api.answer import Account, headers_of, run
from strop.server.api.errors import Problem
from strop.server.api.gone import cancel_when_gone
from strop.server.api.mark import mark_of
from strop.server.service import Service
from strop.strategies.kit.events import Committed, Event, Finished, Kept, OpDone, Outcome, Started

Item = Event | Outcome | Problem

GRACE = 0.25
"""Seconds after admission during which a failure still gets an HTTP status of its own."""


class Script(Protocol):
    """How one endpoint writes down a run: complete server-sent events, in order."""

    def opening(self) -> Iterable[bytes]:
        """Before anything else."""
        ...

    def on(self, event: Event) -> Iterable[bytes]:
        """While the run goes on."""
        ...

    def closing(self, outcome: Outcome) -> Iterable[bytes]:
        """The rest of the answer, and how the stream ends."""
        ...

    def failed(self, problem: Problem) -> Iterable[bytes]:
        """How the stream ends when there is nothing to serve."""
        ...


class StreamedAnswer(Response):
    """Owns the task group of the run. The strategy fills a memory stream, which is written to the client.

    The status line waits for the first engine output, at most `GRACE` seconds after the request was admitted and at
    most until the first keep-alive is due, so that requests which fail at once fail with an HTTP status.
    """

    def __init__(self, service: Service, account: Account, script: Script) -> None:
        super().__init__()
        self.service = service
        self.account = account
        self.script = script
        self.interval = service.settings.sse_keep_alive_interval or math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        source, feed = anyio.create_memory_object_stream[Item](math.inf)
        with source, feed:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_when_gone, receive, group.cancel_scope)
                group.start_soon(self._work, source)
                await self._tell(feed, scope, receive, send)
                group.cancel_scope.cancel()

    async def _work(self, source: MemoryObjectSendStream[Item]) -> None:
        def tell(event: Event) -> None:
            if not isinstance(event, Finished):
                source.send_nowait(event)

        source.send_nowait(await run(self.service, self.account, [tell]))

    async def _tell(self, feed: MemoryObjectReceiveStream[Item], scope: Scope, receive: Receive, send: Send) -> None:
        ask, mark = self.account.ask, mark_of(scope)
        mark.ask = ask
        items = await self._first(feed)
        if (problem := _problem(items)) and not any(isinstance(item, Committed) for item in items):
            mark.code = problem.code
            await problem.response(headers_of(ask))(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self._head()})
        self.service.metrics.first_event(ask, mark.seconds)
        text, spoken = b"".join(self.script.opening()), False
        while True:
            text += b"".join(event for item in items for event in self._events(item))
            if text or not items:
                await send({"type": "http.response.body", "body": text or sse.KEEP_ALIVE, "more_body": True})
            if not spoken and any(isinstance(item, Committed | Outcome) for item in items):
                spoken = True
                self.service.metrics.first_token(ask, mark.seconds)
            if items and isinstance(items[-1], Outcome | Problem):
                break
            items, text = await self._more(feed), b""
        if problem := _problem(items):
            mark.status, mark.code = problem.status, problem.code
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _head(self) -> list[tuple[bytes, bytes]]:
        headers = {**sse.HEADERS, **headers_of(self.account.ask)}
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    async def _first(self, feed: ObjectReceiveStream[Item]) -> list[Item]:
        """What happens until the status line can be written."""
        items: list[Item] = []
        with anyio.move_on_after(self.interval) as waiting:
            async for item in feed:
                items.append(item)
                if isinstance(item, Started):
                    waiting.deadline = min(waiting.deadline, anyio.current_time() + GRACE)
                if isinstance(item, Outcome | Problem | Committed | Kept) or (
                    isinstance(item, OpDone) and item.error is None
                ):
                    break
        return items

    async def _more(self, feed: MemoryObjectReceiveStream[Item]) -> list[Item]:
        """Everything that is ready now, at least one item; nothing if a keep-alive is due first."""
        items: list[Item] = []
        with anyio.move_on_after(self.interval):
            items.append(await feed.receive())
        while items and feed.statistics().current_buffer_used and not isinstance(items[-1], Outcome | Problem):
            items.append(feed.receive_nowait())
        return items

    def _events(self, item: Item) -> Iterable[bytes]:
        match item:
            case Outcome():
                return self.script.closing(item)
            case Problem():
                return self.script.failed(item)
            case _:
                return self.script.on(item)


def _problem(items: list[Item]) -> Problem | None:
    """The failure that ended the run, if it has."""
    return items[-1] if items and isinstance(items[-1], Problem) else None
