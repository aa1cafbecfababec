"""Appending to a log so that every record is in it whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType

OURS = b'{"request":'
LAST_OF_RECORD = b'"kind":"finished"'
CHUNK = 1 << 20


class Appender:
    """An exclusively locked file that grows by whole records.

    On opening, lines after the last finished record are cut off if a crash of ours left them there; a file that is
    something else is refused with `OSError`.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
        try:
            _lock(self._file, path)
            self._size = _mend(self._file, path)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, record: bytes) -> None:
        """Write one record; after an error the file is as it was before."""
        written = 0
        try:
            while written < len(record):
                written += os.write(self._file, record[written:])
        except BaseException:
            os.ftruncate(self._file, self._size)
            raise
        self._size += written

    def __enter__(self) -> Appender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)


def _lock(file: int, path: Path) -> None:
    """Refuse to share the file with another process; where the system has no such locks (Windows), trust the user."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as taken:
        raise OSError(f"another running server writes {path}; give each one its own trace log") from taken


def _mend(file: int, path: Path) -> int:
    """Cut off what follows the last finished record; returns the file's size then."""
    size = os.fstat(file).st_size
    end, tail = size, b""
    while True:
        whole = _end_of_last_record(tail, end)
        if whole is not None or end == 0:
            break
        start = max(0, end - CHUNK)
        os.lseek(file, start, os.SEEK_SET)
        tail = os.read(file, end - start) + tail
        end = start
    torn = tail[(whole or 0) - end :]
    if torn and any(not OURS.startswith(line[: len(OURS)]) for line in torn.splitlines()):
        raise OSError(f"{path} is not a trace log of strop; name another file")
    if torn:
        os.ftruncate(file, whole or 0)
    return whole or 0


def _end_of_last_record(tail: bytes, offset: int) -> int | None:
    """Where the last finished line ends in the file, given its bytes from `offset` on."""
    end = len(tail)
    while (end := tail.rfind(b"\n", 0, end)) >= 0:
        start = tail.rfind(b"\n", 0, end) + 1
        if start == 0 and offset > 0:
            return None
        if _ends_a_record(tail[start:end]):
            return offset + end + 1
    return None


def _ends_a_record(line: bytes) -> bool:
    if not line.startswith(OURS) or LAST_OF_RECORD not in line:
        return False
    try:
        return bool(json.loads(line)["kind"] == "finished")
    except ValueError:
        return False
