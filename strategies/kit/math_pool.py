"""Processes that compare mathematics: a few per event loop, each of which can be killed at any moment.

A plain `Popen` and one thread per exchange rather than `anyio.to_process`, whose workers are shared with everybody, run
the caller's main module again, and are not killed when the wait for their start is cancelled.
"""

from __future__ import annotations

import subprocess
import sys
import time
import weakref
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from strop.strategies.kit.errors import ScorerError

MEGABYTES = 768
"""Address space of a worker; it starts with about 60."""

START_SECONDS = 60.0
"""Wall time for a worker to start; one second is usual."""

WORKERS = 2
"""Most workers per event loop."""

IDLE_SECONDS = 300.0
"""A worker that was idle for longer is replaced."""


class Pool:
    """Workers of one event loop that nobody uses now; `room` limits how many are in use."""

    def __init__(self) -> None:
        self.room = anyio.Semaphore(WORKERS)
        self.threads = anyio.CapacityLimiter(2 * WORKERS)
        self.idle: list[Worker] = []

    async def take(self, seconds: float) -> Worker:
        """A ready worker with that limit, an idle one if possible."""
        fit = [worker for worker in self.idle if worker.seconds == seconds and worker.fresh]
        for stale in [worker for worker in self.idle if worker not in fit]:
            stale.stop()
        self.idle = fit
        if self.idle:
            return self.idle.pop()
        worker = Worker(seconds, self.threads)
        if await worker.exchange("", START_SECONDS) != "ready":
            raise ScorerError("the process that compares mathematics did not start; is math-verify installed?")
        return worker

    def give_back(self, worker: Worker | None) -> None:
        """End of a session."""
        if worker is not None and worker.alive:
            worker.since = time.monotonic()
            self.idle.append(worker)
        self.room.release()


_POOLS: RunVar[Pool] = RunVar("strop_math_workers")


def pool() -> Pool:
    """The pool of the running event loop; it goes away with the loop, and its workers with it."""
    found = _POOLS.get(None)
    if found is None:
        found = Pool()
        _POOLS.set(found)
    return found


class Worker:
    """One process of `math_worker`. It is killed when this object goes away, and ends by itself when its stdin does."""

    def __init__(self, seconds: float, threads: anyio.CapacityLimiter) -> None:
        program = str(Path(__file__).with_name("math_worker.py"))
        self.process = subprocess.Popen(
            [sys.executable, "-P", program, str(seconds), str(MEGABYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.seconds = seconds
        self.threads = threads
        self.since = time.monotonic()
        self.stop = weakref.finalize(self, _stop, self.process)

    @property
    def alive(self) -> bool:
        """Not stopped and not dead."""
        return self.stop.alive and self.process.poll() is None

    @property
    def fresh(self) -> bool:
        """Alive and used not long ago."""
        return self.alive and time.monotonic() - self.since < IDLE_SECONDS

    async def exchange(self, line: str, seconds: float) -> str:
        """Send a line if there is one; the worker's next line. "" if it died or took `seconds`: then it is gone."""
        said = ""
        try:
            with anyio.move_on_after(seconds):
                said = await anyio.to_thread.run_sync(
                    _talk, self.process, line, abandon_on_cancel=True, limiter=self.threads
                )
        finally:
            if not said:
                self.stop()
        return said


def _talk(process: subprocess.Popen[bytes], line: str) -> str:
    """Send a line if there is one and wait for the next. Blocks until then, or until the process dies."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if line:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        return process.stdout.readline().decode().strip()
    except (BrokenPipeError, ValueError):  # it died, or was stopped while we waited
        return ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
