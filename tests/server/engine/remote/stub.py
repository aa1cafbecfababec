"""A small HTTP/1.1 server under a test's full control: it can misbehave in every way and remembers what it was sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream

MODEL = {"id": "m", "object": "model", "created": 7, "owned_by": "someone"}


@dataclass
class Asked:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any = None


@dataclass
class Reply:
    """What a handler writes. `gone` is set as soon as the client has closed the connection."""

    stream: SocketStream
    gone: anyio.Event = field(default_factory=anyio.Event)
    chunked: bool = False

    async def json(self, body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {"content-type": "application/json", "content-length": str(len(raw)), **(headers or {})}
        await self._head(status, head, raw)

    async def events(self) -> None:
        self.chunked = True
        await self._head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})

    async def raw(self, data: bytes) -> None:
        await self.stream.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, body: Any) -> None:
        await self.raw(b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n")

    async def done(self) -> None:
        await self.event(b"[DONE]")
        await self.end()

    async def end(self) -> None:
        await self.stream.send(b"0\r\n\r\n")

    async def _head(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers.items())]
        await self.stream.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


Handler = Callable[[Asked, Reply], Awaitable[None]]


def chunk(text: str | None = None, *, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One chat chunk; `delta` and top-level fields such as `usage` can be given."""
    delta = more.pop("delta", {} if text is None else {"content": text})
    choice = {"index": index, "delta": delta, "finish_reason": finish, **more.pop("choice", {})}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def usage(prompt: int, completion: int, cached: int | None = None) -> dict[str, Any]:
    """A usage object."""
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **details}


@dataclass
class Stub:
    """The server. `handlers` by path answer; what nobody handles is 404. `asked` remembers every request."""

    handlers: dict[str, Handler] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=lambda: [MODEL])
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    def bodies(self, path: str = "/v1/chat/completions") -> list[Any]:
        return [asked.body for asked in self.asked if asked.path == path and asked.method == "POST"]

    def streams(self, *replies: Any, path: str = "/v1/chat/completions") -> None:
        """Answer every POST with these events and `[DONE]`."""

        async def answer(_: Asked, reply: Reply) -> None:
            await reply.events()
            for body in replies:
                await reply.event(body)
            await reply.done()

        self.handlers[path] = answer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stub]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        self.url = f"http://127.0.0.1:{port}"
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._connection)
            yield self
            tasks.cancel_scope.cancel()

    async def _connection(self, stream: SocketStream) -> None:
        self.connections += 1
        async with stream:
            buffer = b""
            while True:
                try:
                    while b"\r\n\r\n" not in buffer:
                        buffer += await stream.receive()
                    head, buffer = buffer.split(b"\r\n\r\n", 1)
                    asked = _parsed(head)
                    length = int(asked.headers.get("content-length", "0"))
                    while len(buffer) < length:
                        buffer += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
                raw, buffer = buffer[:length], buffer[length:]
                asked.body = json.loads(raw) if raw else None
                self.asked.append(asked)
                if not await self._answered(asked, stream):
                    return

    async def _answered(self, asked: Asked, stream: SocketStream) -> bool:
        """Run the handler and watch for the client leaving; False when the connection is over."""
        reply = Reply(stream)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, reply, tasks.cancel_scope)
            try:
                await self._handle(asked, reply)
            except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
                reply.gone.set()
            tasks.cancel_scope.cancel()
        return not reply.gone.is_set()

    async def _watch(self, reply: Reply, scope: anyio.CancelScope) -> None:
        try:
            await reply.stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            reply.gone.set()
            await anyio.sleep(0.05)
            scope.cancel()

    async def _handle(self, asked: Asked, reply: Reply) -> None:
        if asked.path in self.handlers:
            await self.handlers[asked.path](asked, reply)
        elif asked.path == "/v1/models":
            await reply.json({"object": "list", "data": self.models})
        elif asked.path == "/health":
            await reply.json({})
        else:
            await reply.json({"error": {"message": "no such path", "type": "x", "param": None, "code": None}}, 404)


def _parsed(head: bytes) -> Asked:
    first, *rest = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return Asked(method, path, headers)
