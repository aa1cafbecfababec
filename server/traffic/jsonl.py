"""The trace log: every request's trace, appended to one JSONL file by one writer thread.

Each line is an event of the run (`strop.strategies.kit.trace`) with the request's id, time, tenant and model beside
it; the lines of one request stand together and end with its "finished" line. A request's lines are written whole or
not at all: the event loop only hands finished requests to a bounded queue, a full queue drops the newest request, a
failed write is taken back, and lines that a crash left unfinished are cut off at the next start.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any

import anyio

from strop.server.traffic.appender import Appender
from strop.strategies.kit.events import Event, Finished, Kept, Noted, Observer, OpDone, Started
from strop.strategies.kit.trace import Line, to_json

if TYPE_CHECKING:
    from strop.server.service import Ask

QUEUED_RECORDS = 256
KEPT_EVENTS = (Started, OpDone, Kept, Noted, Finished)


@dataclass(frozen=True, slots=True)
class Record:
    """One request's lines, and what is put beside each of them."""

    extra: dict[str, Any]
    lines: list[Line] = field(default_factory=list)

    def encoded(self) -> bytes:
        """The lines as they stand in the file."""
        return "".join(to_json(line, **self.extra) + "\n" for line in self.lines).encode()


class TraceLog:
    """A JSONL file of traces; with no path, a log that keeps nothing.

    `counts` has the records by result: "written", "dropped" (the queue was full, or the log is not running) and
    "failed" (the disk refused).
    """

    def __init__(self, path: Path | None, *, queued: int = QUEUED_RECORDS) -> None:
        self.path = path
        self._queue: Queue[Record | None] = Queue(queued)
        self._counts: Counter[str] = Counter()
        self._open = False

    @property
    def counts(self) -> Mapping[str, int]:
        """Records by result; empty for a log without a path."""
        return {} if self.path is None else {name: self._counts[name] for name in ("written", "dropped", "failed")}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the file and start the writer; on leaving, everything queued is written and synced.

        Raises `OSError` when the file cannot be written, is no trace log, or belongs to another running server.
        """
        if self.path is None:
            yield
            return
        appender = await anyio.to_thread.run_sync(Appender, self.path)
        writer = Thread(target=self._write_all, args=(appender,), name="strop-trace-log", daemon=True)
        writer.start()
        self._open = True
        try:
            yield
        finally:
            self._open = False
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._finish, writer)

    def observer(self, ask: Ask) -> Observer:
        """A listener that logs one request when its run is over. It never raises and never waits."""
        if self.path is None:
            return _nothing
        extra = {"request": ask.id, "tenant": ask.principal.tenant, "model": ask.model}
        return _Collector(self, Record({**extra, "time": round(time.time(), 6)}))

    def put(self, record: Record) -> None:
        """Queue a record; without room it is dropped and counted."""
        if not self._open:
            self._counts["dropped"] += 1
            return
        try:
            self._queue.put_nowait(record)
        except Full:
            self._counts["dropped"] += 1

    def _finish(self, writer: Thread) -> None:
        self._queue.put(None)
        writer.join()

    def _write_all(self, appender: Appender) -> None:
        with appender:
            while (record := self._queue.get()) is not None:
                self._write(appender, record)

    def _write(self, appender: Appender, record: Record) -> None:
        try:
            appender.append(record.encoded())
        except Exception:  # boundary: a lost log record must not end the writer; it is counted and reported
            self._counts["failed"] += 1
            logging.getLogger("strop.traffic").exception("request %s was not logged", record.extra["request"])
        else:
            self._counts["written"] += 1


class _Collector:
    """Collects the events of one run; serialising them is the writer's work."""

    __slots__ = ("_log", "_record")

    def __init__(self, log: TraceLog, record: Record) -> None:
        self._log = log
        self._record = record

    def __call__(self, event: Event) -> None:
        if isinstance(event, KEPT_EVENTS):
            self._record.lines.append(event)
            if isinstance(event, Finished):
                self._log.put(self._record)


def _nothing(event: Event) -> None:
    """Listen to nothing."""
