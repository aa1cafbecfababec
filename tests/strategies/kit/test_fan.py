"""Fan-out: order, early stop, errors."""

from __future__ import annotations

import itertools

import anyio
import pytest

from strop.strategies.kit.errors import BudgetSpent
from strop.strategies.kit.fan import Arrivals, fan_out, first_cause


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::3])
def test_until_sees_prefixes_in_item_order_whatever_finishes_first(order: tuple[int, ...]) -> None:
    seen: list[list[int]] = []

    def until(prefix: list[int]) -> bool:
        seen.append(prefix)
        return len(prefix) == 3

    arrivals = Arrivals(until)
    for i in order:
        if not arrivals.stopped:
            arrivals.add(i, 10 * i)
    assert arrivals.in_order() == [0, 10, 20]
    assert seen == [[0], [0, 10], [0, 10, 20]]


async def test_results_come_in_item_order() -> None:
    async def slow_first(i: int) -> int:
        await anyio.sleep(0.003 * (3 - i))
        return i

    assert await fan_out(slow_first, 4) == [0, 1, 2, 3]


async def test_a_branch_without_budget_is_left_out_and_does_not_hold_up_until() -> None:
    async def one(i: int) -> int:
        if i == 1:
            raise BudgetSpent("tokens")
        return i

    assert await fan_out(one, 4) == [0, 2, 3]
    assert await fan_out(one, 4, lambda prefix: prefix == [0, 2]) == [0, 2]


async def test_until_cancels_the_branches_behind_the_prefix() -> None:
    cancelled: list[int] = []

    async def one(i: int) -> int:
        if i < 2:
            return i
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append(i)
            raise
        raise AssertionError

    assert await fan_out(one, 5, lambda prefix: len(prefix) == 2) == [0, 1]
    assert sorted(cancelled) == [2, 3, 4]


async def test_an_error_cancels_the_siblings_and_comes_out_as_it_is() -> None:
    cancelled: list[int] = []

    async def one(i: int) -> int:
        if i == 1:
            raise ValueError("one")
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(i)
        return i

    with pytest.raises(ValueError, match="one"):
        await fan_out(one, 3)
    assert sorted(cancelled) == [0, 2]


async def test_errors_of_nested_fans_are_unwrapped_too() -> None:
    async def leaf(i: int) -> int:
        raise KeyError("leaf")

    async def inner(i: int) -> list[int]:
        return await fan_out(leaf, 2)

    with pytest.raises(KeyError, match="leaf"):
        await fan_out(inner, 2)


def test_the_first_cause_is_found_inside_nested_groups() -> None:
    cause = ValueError("deep")
    group = BaseExceptionGroup("a", [BaseExceptionGroup("b", [cause]), KeyError("later")])
    assert first_cause(group) is cause


async def test_nothing_to_do_gives_nothing() -> None:
    async def never(i: int) -> int:
        raise AssertionError

    assert await fan_out(never, 0) == []
