"""Label values with a limit: whatever clients send, the number of time series stays bounded."""

from __future__ import annotations

from collections.abc import Iterable

OTHER = "other"
NONE = "none"


class Vocabulary:
    """The values one label may take.

    Declared values are always kept. Undeclared ones are kept in order of arrival until there are `limit` of them
    (with a limit of 0: never); every further one is counted as "other", and an empty one as "none".
    """

    def __init__(self, limit: int, declared: Iterable[str] = ()) -> None:
        self._limit = limit
        self._declared = frozenset(declared)
        self._met: set[str] = set()

    def __call__(self, value: str) -> str:
        """The label value to count `value` under."""
        if value in self._declared or value in self._met:
            return value
        if not value:
            return NONE
        if len(self._met) >= self._limit:
            return OTHER
        self._met.add(value)
        return value
