"""The two gates, replayed against plain Python over ragged steps with slots that change hands."""

from __future__ import annotations

import math
import os
import random
import statistics
from collections import deque
from types import SimpleNamespace

import pytest
import torch

from strop.kernels import ConfidenceGate, EntropyGate, EntropyKnobs, Flagged, confidence_gate, entropy_gate

SLOTS, ROWS, CAPACITY = 9, 6, 2
STEPS = 60 if os.environ.get("STROP_KERNELS") == "interpret" else 200  # of the kernel with a program per row


class PlainGate:
    """SRGen's threshold for one request, as its code runs."""

    def __init__(self, knobs: EntropyKnobs) -> None:
        self.knobs, self.seen, self.fired = knobs, deque[float](), 0

    def threshold(self) -> float:
        if len(self.seen) < self.knobs.window:
            return self.knobs.warmup_threshold
        recent = list(self.seen)[-self.knobs.window :]
        spread = statistics.stdev(recent) if len(recent) > 1 else 0.0
        return max(statistics.mean(recent) + self.knobs.k * max(spread, self.knobs.min_std), self.knobs.min_threshold)


def some_knobs(dice: random.Random) -> EntropyKnobs:
    return EntropyKnobs(
        window=dice.choice([1, 2, 5, 8]), k=dice.uniform(0.2, 1.5), min_std=0.1, min_threshold=0.8,
        warmup_threshold=2.0, max_activations=dice.choice([0, 3, 50]),
    )  # fmt: skip


def test_two_hundred_ragged_steps_equal_a_plain_python_gate(oracle: SimpleNamespace) -> None:
    dice, gate, plain = random.Random(1), EntropyGate.allocate(SLOTS, "cpu", max_window=8), dict[int, PlainGate]()
    flags, dropped = 0, 0
    for step in range(200):
        for slot in range(SLOTS):
            if slot not in plain or dice.random() < 0.03:  # a slot changes hands without being cleaned up
                plain[slot] = PlainGate(some_knobs(dice))
                gate.open(slot, plain[slot].knobs)
        slots = dice.sample(range(SLOTS), ROWS)
        slots[dice.randrange(ROWS)] = -1
        active = [dice.random() < 0.8 for _ in slots]
        scale = 4.0 if dice.random() < 0.1 else 1.0  # now and then everything spikes at once
        entropy = [math.nan if dice.random() < 0.05 else scale * dice.expovariate(1.0) for _ in slots]
        want, lost, thresholds = [], 0, []
        for row, (slot, h) in enumerate(zip(slots, entropy, strict=True)):
            if slot < 0 or not active[row] or math.isnan(h):
                thresholds.append(math.nan)
                continue
            request = plain[slot]
            thresholds.append(request.threshold())
            if h > thresholds[-1] and request.fired < request.knobs.max_activations:
                if len(want) < CAPACITY:
                    want.append(row)
                    request.fired += 1
                else:
                    lost += 1
            request.seen.append(h)
        got = entropy_gate(
            torch.tensor(entropy), torch.tensor(slots), gate, active=torch.tensor(active), capacity=CAPACITY
        )
        assert got.rows.tolist() == want + [-1] * (CAPACITY - len(want)), step
        assert (int(got.count), int(got.dropped)) == (len(want), lost), step
        oracle.close(got.threshold, torch.tensor(thresholds), 1e-5, "threshold")
        flags, dropped = flags + len(want), dropped + lost
    assert flags > 50
    assert dropped > 3
    assert gate.fired.tolist() == [plain[slot].fired for slot in range(SLOTS)]
    assert gate.seen.tolist() == [len(plain[slot].seen) for slot in range(SLOTS)]


def test_rows_that_are_not_used_leave_every_slot_untouched() -> None:
    gate = EntropyGate.allocate(3, "cpu")
    gate.ring.fill_(7.0)
    gate.seen.fill_(5)
    before = [gate.ring.clone(), gate.seen.clone(), gate.fired.clone()]
    out = Flagged.allocate(4, 2, "cpu")
    for tensor in (out.rows, out.count, out.dropped, out.threshold):
        tensor.fill_(55)
    got = entropy_gate(
        torch.tensor([9.0, 9.0, math.nan, 9.0]), torch.tensor([-1, 1, 2, 0]), gate,
        active=torch.tensor([True, False, True, False]), capacity=2, out=out,
    )  # fmt: skip
    assert got is out
    assert (got.rows.tolist(), int(got.count), int(got.dropped)) == ([-1, -1], 0, 0)
    assert got.threshold.isnan().all()
    for a, b in zip(before, [gate.ring, gate.seen, gate.fired], strict=True):
        assert torch.equal(a, b)


def test_more_rows_than_one_block_compact_in_order() -> None:
    rows = 300
    gate = EntropyGate.allocate(rows, "cpu", max_window=2)
    for slot in range(rows):
        gate.open(slot, EntropyKnobs(window=2, warmup_threshold=1.0))
    entropy = torch.where(torch.arange(rows) % 37 == 5, 2.0, 1.0)
    got = entropy_gate(entropy, torch.arange(rows), gate, capacity=20)
    assert got.rows[: int(got.count)].tolist() == list(range(5, rows, 37))


def test_ragged_steps_equal_a_plain_python_sliding_group(oracle: SimpleNamespace) -> None:
    dice, gate = random.Random(2), ConfidenceGate.allocate(SLOTS, "cpu", max_window=8)
    plain: dict[int, tuple[int, float, list[float]]] = {}
    lowest, stops = dict.fromkeys(range(SLOTS), math.inf), 0
    for _ in range(STEPS):
        for slot in range(SLOTS):
            if slot not in plain or dice.random() < 0.03:
                plain[slot], lowest[slot] = (dice.choice([1, 3, 8]), dice.choice([2.0, 3.0, -math.inf]), []), math.inf
                gate.open(slot, window=plain[slot][0], threshold=plain[slot][1])
        slots = dice.sample(range(SLOTS), ROWS)
        slots[dice.randrange(ROWS)] = -1
        confidence = [math.nan if dice.random() < 0.05 else dice.uniform(1, 5) for _ in slots]
        stop, group = [], []
        for slot, c in zip(slots, confidence, strict=True):
            if slot < 0 or math.isnan(c):
                stop.append(False)
                group.append(math.nan)
                continue
            window, threshold, seen = plain[slot]
            seen.append(c)
            group.append(statistics.mean(seen[-window:]))
            stop.append(len(seen) >= window and group[-1] < threshold)
            lowest[slot] = min(lowest[slot], group[-1]) if len(seen) >= window else lowest[slot]
        got = confidence_gate(torch.tensor(confidence), torch.tensor(slots), gate)
        assert got.stop.tolist() == stop
        oracle.close(got.group, torch.tensor(group), 1e-5)
        stops += sum(stop)
    assert stops > STEPS / 4
    oracle.close(gate.lowest, torch.tensor([lowest[slot] for slot in range(SLOTS)]), 1e-5)


def test_wrong_knobs_and_shapes_are_refused() -> None:
    gate, groups = EntropyGate.allocate(2, "cpu", max_window=4), ConfidenceGate.allocate(2, "cpu", max_window=4)
    with pytest.raises(ValueError, match="window is 1 to 4"):
        gate.open(0, EntropyKnobs(window=5))
    with pytest.raises(ValueError, match="window is 1 to 4"):
        groups.open(0, window=0)
    with pytest.raises(ValueError, match="entropy, slots"):
        entropy_gate(torch.ones(2), torch.zeros(3, dtype=torch.int64), gate)
    with pytest.raises(ValueError, match="capacity"):
        entropy_gate(torch.ones(2), torch.zeros(2, dtype=torch.int64), gate, capacity=0)
    with pytest.raises(ValueError, match="confidence, slots"):
        confidence_gate(torch.ones(2), torch.zeros(3, dtype=torch.int64), groups)
