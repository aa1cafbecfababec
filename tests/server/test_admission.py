import anyio
import pytest

from strop.server.admission import Admission
from strop.strategies.kit.errors import EngineOverloaded


async def test_more_than_the_queue_holds_is_turned_away_at_once():
    admission = Admission(concurrent=1, queued=1)
    served: list[int] = []

    async def request(i: int) -> None:
        async with admission.slot():
            served.append(i)
            await gate.wait()

    gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(request, 0)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(request, 1)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(EngineOverloaded) as full:
            await request(2)
        assert full.value.retry_after > 0
        assert (admission.active, admission.waiting) == (1, 1)
        gate.set()
    assert served == [0, 1]
    assert (admission.active, admission.waiting) == (0, 0)


async def test_a_waiter_that_leaves_frees_its_place_in_the_queue():
    admission = Admission(concurrent=1, queued=1)
    async with admission.slot(), anyio.create_task_group() as group:
        with anyio.move_on_after(0.01):
            async with admission.slot():
                pytest.fail("there was no place")
        assert admission.waiting == 0
        group.cancel_scope.cancel()


async def test_a_failing_request_gives_its_place_back():
    admission = Admission(concurrent=1, queued=0)
    with pytest.raises(RuntimeError):
        async with admission.slot():
            raise RuntimeError
    async with admission.slot():
        assert admission.active == 1
