"""What the outermost layer learns about a request from the layers inside, for metrics and logs."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from strop.server.service import Ask

GONE = 499
"""Status of a request whose client left before the end, as web servers log it."""


@dataclass(slots=True)
class Mark:
    """One request: when it arrived, what it asked once that is understood, how it was answered.

    `status` is what the client learned, also if it learned it in the middle of a stream.
    """

    request_id: str = ""
    began: float = field(default_factory=perf_counter)
    ask: Ask | None = None
    status: int = GONE
    code: str | None = None

    @property
    def seconds(self) -> float:
        """Since it arrived."""
        return perf_counter() - self.began


def mark_of(scope: MutableMapping[str, Any]) -> Mark:
    """The mark of a request; one is made where the outermost layer is missing."""
    state = scope.setdefault("state", {})
    found = state.setdefault("mark", Mark())
    assert isinstance(found, Mark)
    return found
