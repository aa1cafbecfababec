"""Run Python that others wrote: in bubblewrap, without network, files, or processes of its own, for a bounded time.

The sandbox protects the machine. It does not protect a verdict from an answer that fights its own tests: both run in
one interpreter.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Literal

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from strop.strategies.kit.errors import MissingCapability, ScorerError

log = logging.getLogger(__name__)

RUNNER = Path(__file__).with_name("sandbox_runner.py")
READY = b"ready\n"
KEPT = 4000
"""Bytes of output that are kept, from its end."""

SLACK = 1.0
"""Seconds of wall time for the sandbox to start, on top of those for the program."""

TMP_BYTES = 16 << 20
CALLS = {
    "x86_64": (0xC000003E, 56, (57, 58), 435),
    "aarch64": (0xC00000B7, 220, (), 435),
}
"""Machine to its audit number and its system calls: clone, (fork, vfork), clone3."""

_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended: to its end, by failing (an assertion, or exit code 1), broken, or stopped for its time."""

    ended: Literal["done", "failed", "broken", "late"]
    output: str = ""


class Sandbox:
    """`seconds` bound a program's wall and processor time, `megabytes` its memory; `at_once` run together."""

    def __init__(self, *, seconds: float = 10.0, megabytes: int = 512, at_once: int | None = None) -> None:
        self.seconds = seconds
        self.megabytes = megabytes
        self._room = anyio.CapacityLimiter(at_once or max(1, (os.cpu_count() or 2) // 2))

    async def run(self, programs: Sequence[tuple[str, str]], stdin: str = "") -> Ran:
        """Run (name, source) pairs one after the other in one namespace.

        Raises MissingCapability where there is no bubblewrap, ScorerError where it does not start.
        """
        bwrap = why_not()
        if bwrap.missing:
            raise MissingCapability("sandbox", bwrap.missing)
        passed = 64 + secrets.randbelow(60)
        task = {
            "programs": list(programs),
            "stdin": stdin,
            "seconds": self.seconds,
            "megabytes": self.megabytes,
            "passed": passed,
        }
        async with self._room:
            with _filter() as filters:
                argv = command(bwrap.program, filters.fileno())
                code, said = await self._inside(argv, filters.fileno(), json.dumps(task).encode())
        if not said.started:
            log.error("bubblewrap did not start: %s", said.text)
            raise ScorerError("the sandbox did not start; the server's log has the reason")
        if code is None:
            return Ran("late", f"took longer than {self.seconds:g} seconds")
        return Ran("done" if code == passed else "failed" if code == 1 else "broken", said.text)

    async def _inside(self, argv: Sequence[str], filter_fd: int, task: bytes) -> tuple[int | None, _Said]:
        """Exit code (None: over time) and the end of the output."""
        said = _Said()
        async with await anyio.open_process(argv, stderr=subprocess.STDOUT, pass_fds=(filter_fd,)) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            with anyio.move_on_after(self.seconds + SLACK) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(_feed, process.stdin, task)
                    group.start_soon(said.listen, process.stdout)
                    await process.wait()
            if scope.cancelled_caught:
                process.kill()
        return (None if scope.cancelled_caught else process.returncode), said


class _Said:
    """What came out: whether the runner started, and the end of what the programs wrote."""

    def __init__(self) -> None:
        self.started = False
        self._tail = b""

    async def listen(self, stdout: ByteReceiveStream) -> None:
        """Read until the end."""
        async for chunk in stdout:
            self._tail += chunk
            if not self.started and self._tail.startswith(READY):
                self.started, self._tail = True, self._tail[len(READY) :]
            self._tail = self._tail[-KEPT:]

    @property
    def text(self) -> str:
        """Without the place of the interpreter on this machine."""
        return self._tail.decode(errors="replace").replace(sys.base_prefix, "").strip()


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """Where it is, or why it cannot be used."""

    program: str
    missing: str = ""


def why_not() -> Bubblewrap:
    """Whether programs can be run here."""
    found = shutil.which("bwrap")
    if sys.platform != "linux" or platform.machine() not in CALLS:
        return Bubblewrap("", f"the sandbox needs Linux on {' or '.join(CALLS)}")
    if found is None:
        return Bubblewrap("", "bubblewrap is not installed on the server (apt-get install bubblewrap)")
    return Bubblewrap(found)


def command(bwrap: str, filter_fd: int) -> list[str]:
    """The command line: nothing of the machine but the interpreter and system libraries, all read-only."""
    python = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    libraries = dict.fromkeys(["/usr/lib", "/usr/lib64", "/lib", "/lib64", sys.base_prefix])
    seen = [word for path in libraries for word in ("--ro-bind-try", path, path)]
    devices = [word for name in ("null", "zero", "urandom") for word in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
    env: Mapping[str, str] = {"HOME": "/tmp", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    return [
        bwrap,
        *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
        *("--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox", "--clearenv"),
        *(word for name, value in env.items() for word in ("--setenv", name, value)),
        *seen,
        *devices,
        *("--ro-bind", str(RUNNER), "/runner.py", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"),
        *("--remount-ro", "/", "--chdir", "/tmp"),
        *("--seccomp", str(filter_fd)),
        *("--", str(python), "-I", "-S", "-B", "/runner.py"),
    ]


def seccomp(machine: str) -> bytes:
    """A filter (struct sock_filter[]) that allows threads but no new processes, and no other call table."""
    audit, clone, forks, clone3 = CALLS[machine]
    load, jump_eq, jump_ge, jump_set, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    program = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (jump_eq, 1, 0, audit),
        (ret, 0, 0, _KILL),
        (load, 0, 0, 0),  # seccomp_data.nr
        (jump_ge, 0, 1, _X32),
        (ret, 0, 0, _KILL),
        *(line for call in forks for line in ((jump_eq, 0, 1, call), (ret, 0, 0, _ERRNO | _EPERM))),
        (jump_eq, 0, 1, clone3),
        (ret, 0, 0, _ERRNO | _ENOSYS),  # the C library then uses clone, whose flags can be read
        (jump_eq, 1, 0, clone),
        (ret, 0, 0, _ALLOW),
        (load, 0, 0, 16),  # the low word of the first argument
        (jump_set, 1, 0, _CLONE_THREAD),
        (ret, 0, 0, _ERRNO | _EPERM),
        (ret, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in program)


@contextmanager
def _filter() -> Iterator[IO[bytes]]:
    with TemporaryFile() as file:
        file.write(seccomp(platform.machine()))
        file.flush()
        file.seek(0)
        yield file


async def _feed(stdin: ByteSendStream, task: bytes) -> None:
    try:
        async with stdin:
            await stdin.send(task)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # it ended before it read everything; its exit code tells
