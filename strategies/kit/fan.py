"""Structured fan-out: many branches at once, results in item order, early stop that does not depend on timing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

from strop.strategies.kit.errors import BudgetSpent

R = TypeVar("R")


class Arrivals(Generic[R]):
    """Results as they come in, read in item order. `until` is asked about ever longer prefixes of the results."""

    def __init__(self, until: Callable[[list[R]], bool] | None) -> None:
        self.results: dict[int, R] = {}
        self.prefix: list[R] = []
        self.stopped = False
        self._until = until
        self._spent: set[int] = set()
        self._cursor = 0

    def add(self, i: int, result: R) -> None:
        """Branch `i` is done."""
        self.results[i] = result
        self._advance()

    def leave_out(self, i: int) -> None:
        """Branch `i` ran out of budget."""
        self._spent.add(i)
        self._advance()

    def _advance(self) -> None:
        while self._until is not None and not self.stopped:
            if self._cursor in self.results:
                self.prefix.append(self.results[self._cursor])
                self.stopped = self._until(list(self.prefix))
            elif self._cursor not in self._spent:
                return
            self._cursor += 1

    def in_order(self) -> list[R]:
        """What the caller gets."""
        return self.prefix if self.stopped else [self.results[i] for i in sorted(self.results)]


async def fan_out(
    one: Callable[[int], Awaitable[R]], count: int, until: Callable[[list[R]], bool] | None = None
) -> list[R]:
    """Run `one(0) .. one(count-1)` together. Branches that raise `BudgetSpent` are left out.

    Any other error cancels the siblings and is raised as it is. With `until`, the shortest prefix (in item order)
    that satisfies it is returned and the rest is cancelled.
    """
    arrivals: Arrivals[R] = Arrivals(until)

    async def branch(i: int) -> None:
        try:
            arrivals.add(i, await one(i))
        except BudgetSpent:
            arrivals.leave_out(i)
        if arrivals.stopped:
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            for i in range(count):
                group.start_soon(branch, i)
    except BaseExceptionGroup as failures:
        raise first_cause(failures) from failures
    return arrivals.in_order()


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception inside a (possibly nested) group."""
    inner = group.exceptions[0]
    return first_cause(inner) if isinstance(inner, BaseExceptionGroup) else inner
