"""Server-sent events, as bytes arrive."""

from __future__ import annotations

_LARGEST = 32 * 2**20  # bytes of one event


class Events:
    """Feeds on bytes, gives the `data` of every finished event. Comments and other fields are skipped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """The events that `received` completes. `ValueError` when one is larger than any honest event."""
        lines = (self._rest + received).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _LARGEST:
            raise ValueError("an event is too large")
        done: list[bytes] = []
        for line in lines:
            self._line(line[:-1] if line.endswith(b"\r") else line, done)
        return done

    def _line(self, line: bytes, done: list[bytes]) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif not line and self._data:
            done.append(b"\n".join(self._data))
            self._data = []
