import anyio
import pytest

from strop.server.scoring.batched import Batched
from strop.strategies.kit.errors import EngineUnavailable, ScorerError


class Backend:
    """Doubles numbers; the first call waits until `gate` opens, so that later callers gather."""

    def __init__(self) -> None:
        self.gate = anyio.Event()
        self.batches: list[list[int]] = []

    async def __call__(self, items):
        self.batches.append(list(items))
        if len(self.batches) == 1:
            await self.gate.wait()
        if -1 in items:
            raise ScorerError("minus one")
        return [2 * item for item in items]


async def _gathered(callers: list[list[int]], cancel: int | None = None, most: int = 256):
    backend = Backend()
    batched = Batched(backend, most=most)
    results: dict[int, object] = {}

    async def call(i: int, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                results[i] = await batched(callers[i])
            except ScorerError as error:
                results[i] = error

    async with batched.running(), anyio.create_task_group() as group:
        scopes = [anyio.CancelScope() for _ in callers]
        for i, scope in enumerate(scopes):
            group.start_soon(call, i, scope)
            await anyio.wait_all_tasks_blocked()
        if cancel is not None:
            scopes[cancel].cancel()
            await anyio.wait_all_tasks_blocked()
        backend.gate.set()
    return backend, results


async def test_callers_that_wait_together_share_one_backend_call():
    backend, results = await _gathered([[1], [2, 3], [4]])
    assert backend.batches == [[1], [2, 3, 4]]
    assert results == {0: [2], 1: [4, 6], 2: [8]}


async def test_a_cancelled_caller_strands_nobody_not_even_when_it_came_first():
    _, results = await _gathered([[1], [2], [3]], cancel=0)
    assert results == {1: [4], 2: [6]}


async def test_items_of_a_caller_that_left_while_waiting_are_not_scored():
    backend, _ = await _gathered([[1], [2], [3]], cancel=1)
    assert backend.batches == [[1], [3]]


async def test_a_batch_is_bounded():
    backend, results = await _gathered([[1], [2, 2], [3, 3], [4]], most=3)
    assert backend.batches == [[1], [2, 2], [3, 3, 4]]
    assert results[3] == [8]


async def test_a_failing_batch_fails_its_callers_only_and_the_owner_goes_on():
    backend = Backend()
    backend.gate.set()
    batched = Batched(backend)
    async with batched.running():
        with pytest.raises(ScorerError):
            await batched([-1])
        assert await batched([5]) == [10]


async def test_a_scorer_that_is_not_running_says_so():
    with pytest.raises(EngineUnavailable):
        await Batched(Backend())([1])


async def test_callers_that_still_wait_when_the_scorer_stops_get_an_error():
    batched = Batched(Backend())
    failures: list[Exception] = []

    async def call(item):
        try:
            await batched([item])
        except EngineUnavailable as error:
            failures.append(error)

    async with anyio.create_task_group() as group, batched.running():
        for item in (1, 2, 3):
            group.start_soon(call, item)
            await anyio.wait_all_tasks_blocked()
    assert len(failures) == 3
