"""The prefix store finds the longest known prefix, to the token, and stays within its bound."""

from __future__ import annotations

import gc
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the embedded engine needs torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from strop.server.engine.transformers.cache import Geometry, Sheet, Slots  # noqa: E402
from strop.server.engine.transformers.load import Loaded  # noqa: E402
from strop.server.engine.transformers.prefix import PrefixStore  # noqa: E402
from strop.server.engine.transformers.runner import Runner  # noqa: E402

GEOMETRY = Geometry(2, 3, 4, torch.float32, torch.device("cpu"))
SEQUENCES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=50), min_size=1, max_size=8)


def kv(ids: list[int]) -> Any:
    """Keys and values that tell which tokens came before them."""
    marks = torch.tensor([hash(tuple(ids[: i + 1])) % 10_000 for i in range(len(ids))], dtype=torch.float32)
    return marks[:, None].expand(2, 2, 3, -1, 4)


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@settings(max_examples=200, deadline=None)
@given(SEQUENCES, st.lists(st.integers(0, 1), min_size=1, max_size=50))
def test_the_longest_known_prefix_is_found(known: list[list[int]], asked: list[int]) -> None:
    store = PrefixStore(max_tokens=100_000)
    for ids in known:
        store.add(ids, kv(ids))
    match = store.match(asked)
    assert match.length == max(common(asked, ids) for ids in known)
    if match.length:
        assert torch.equal(torch.cat(match.parts, dim=3), kv(asked)[:, :, :, : match.length])


@settings(max_examples=200, deadline=None)
@given(SEQUENCES, st.integers(0, 60))
def test_the_bound_holds_and_what_is_left_is_right(known: list[list[int]], bound: int) -> None:
    store = PrefixStore(max_tokens=bound)
    for ids in known:
        store.add(ids, kv(ids))
        assert store.tokens <= bound
        match = store.match(ids)
        if match.length:
            assert torch.equal(torch.cat(match.parts, dim=3), kv(ids)[:, :, :, : match.length])


def test_the_least_recently_used_goes_first() -> None:
    store = PrefixStore(max_tokens=40)
    a, b, c = ([i] * 20 for i in range(3))
    store.add(a, kv(a))
    store.add(b, kv(b))
    store.match(a)
    store.add(c, kv(c))
    assert [store.match(ids).length for ids in (a, b, c)] == [20, 0, 20]


def sheet(mark: float, length: int) -> Sheet:
    made = Sheet(GEOMETRY, length)
    made.append(torch.full((2, 2, 3, length, 4), mark))
    return made


def test_rows_move_together_and_keep_what_they_hold() -> None:
    slots = Slots(GEOMETRY, max_rows=4, max_tokens=4096)
    for mark, length in ((1.0, 5), (2.0, 300), (3.0, 7)):
        slots.join(sheet(mark, length))
    assert slots.leave(0) == 2
    assert slots.lengths == [7, 300]
    assert torch.equal(slots.park(0).written, sheet(3.0, 7).written)
    assert torch.equal(slots.park(1).written, sheet(2.0, 300).written)


def test_a_poisoned_row_leaves_nothing_behind() -> None:
    slots = Slots(GEOMETRY, max_rows=4, max_tokens=4096)
    slots.join(sheet(torch.nan, 50))
    slots.join(sheet(2.0, 5))
    slots.leave(0, poisoned=True)
    assert not slots.kv[:, :, 0].isnan().any()


def test_the_rectangle_is_bounded_but_one_row_always_fits() -> None:
    slots = Slots(GEOMETRY, max_rows=4, max_tokens=512)
    assert slots.fits(4, 128)
    assert not slots.fits(4, 129)
    assert not slots.fits(5, 1)
    assert slots.fits(1, 5000)


def test_one_long_row_does_not_cost_what_many_would() -> None:
    slots = Slots(GEOMETRY, max_rows=4, max_tokens=512)
    for _ in range(4):
        slots.join(sheet(1.0, 100))
    for _ in range(3):
        slots.leave(0)
    slots.reserve(1, 400)
    assert slots.kv.shape[2] * slots.kv.shape[4] == 512


@torch.inference_mode()
def test_memory_is_free_without_waiting_for_the_garbage_collector(loaded: Loaded) -> None:
    runner = Runner(loaded.model)
    gc.collect()
    gc.disable()
    try:
        slots, prompt = Slots(runner.geometry, 4, 4096), Sheet(runner.geometry, 3)
        runner.prefill(prompt, (1, 2, 3))
        slots.join(prompt)
        runner.decode(slots, [4])
        runner.branch(prompt, [[5], [6]])
        slots.leave(0)
        del prompt
        alive = gc.get_objects()
        assert not [o for o in alive if type(o) is torch.Tensor and o.dim() == 6 and o.numel()]
        assert not [o for o in alive if type(o).__name__ in ("_Layer", "DecodeStep", "PrefillStep", "BranchStep")]
    finally:
        gc.enable()
