"""A small closed-loop load generator: so many connections, each sends its next request when the last was answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import quantiles
from time import perf_counter
from typing import Any


@dataclass(frozen=True)
class Load:
    """What a run measured; times in seconds."""

    requests: int
    failed: int
    seconds: float
    p50: float
    p99: float

    @property
    def per_second(self) -> float:
        """Successful requests per second."""
        return (self.requests - self.failed) / self.seconds


async def measure(port: int, path: str, body: dict[str, Any], *, connections: int, requests: int) -> Load:
    """Send `requests` equal POSTs over `connections` connections; wall-clock latency of each."""
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer bench\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    left = requests
    times: list[float] = []
    failed = 0

    async def connection() -> None:
        nonlocal left, failed
        link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while left > 0:
            left -= 1
            began = perf_counter()
            link = link or await asyncio.open_connection("127.0.0.1", port)
            link[1].write(head.encode() + payload)
            status, keep = await _answer(link[0])
            times.append(perf_counter() - began)
            failed += status != 200
            if not keep:
                link[1].close()
                link = None
        if link:
            link[1].close()

    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(connection())
    seconds = perf_counter() - began
    cuts = quantiles(times, n=100)
    return Load(len(times), failed, seconds, cuts[49], cuts[98])


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read one response; its status, and whether the connection stays open."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:]) if v}
    status = int(lines[0].split()[1])
    keep = lines[0].startswith("HTTP/1.1") and headers.get("connection", "").lower() != "close"
    if "content-length" in headers:
        await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.read()
    return status, keep


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 120.0) -> None:
    """Wait until `check` is true; `TimeoutError` after `seconds`."""
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110
            await asyncio.sleep(0.2)  # another process: no event to wait for


async def answers(port: int, path: str) -> bool:
    """Whether GET `path` gives 200."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return line.split()[1:2] == [b"200"]
