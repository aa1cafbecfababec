"""Triton kernels behind `entropy_gate` and `confidence_gate`: one small launch each.

Legend: B rows, R ring capacity, C capacity of the compacted list.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from strop.kernels.confidence_gate import ConfidenceGate
    from strop.kernels.entropy_gate import EntropyGate, Flagged

WARPS = 4
MAX_BLOCK = 128  # rows of one turn of the single program


@triton.jit
def thresholds(ring, knobs, seen, slot, use, R, RP: tl.constexpr):
    """Threshold of every row from its slot's ring, and the most activations the slot may have."""
    at = tl.arange(0, RP)
    know = knobs + slot * 6
    window = tl.load(know, mask=use, other=1.0)
    k = tl.load(know + 1, mask=use, other=0.0)
    min_std = tl.load(know + 2, mask=use, other=0.0)
    floor = tl.load(know + 3, mask=use, other=0.0)
    warmup = tl.load(know + 4, mask=use, other=0.0)
    most = tl.load(know + 5, mask=use, other=0.0)
    age = (seen[:, None] - 1 - at[None, :] + R) % R
    age = tl.where(seen[:, None] > 0, age, R)
    recent = use[:, None] & (at[None, :] < R) & (age < tl.minimum(window, seen.to(tl.float32))[:, None])
    w = tl.load(ring + slot[:, None] * R + at[None, :], mask=recent, other=0.0)
    mean = tl.sum(w, axis=1) / window
    off = tl.where(recent, w - mean[:, None], 0.0)
    std = tl.sqrt(tl.sum(off * off, axis=1) / tl.maximum(window - 1, 1.0))
    dynamic = tl.maximum(mean + k * tl.maximum(std, min_std), floor)
    return tl.where(seen.to(tl.float32) < window, warmup, dynamic), most


@triton.jit
def entropy_step(entropy, slots, ring, seen_ptr, fired_ptr, knobs, rows, count, dropped, threshold_ptr, B, R, C,
                 RP: tl.constexpr, BLOCK: tl.constexpr, CP: tl.constexpr):  # fmt: skip
    """Grid (1,). Decides, appends and compacts BLOCK rows at a time, in row order."""
    taken_before = 0
    wanted_before = 0
    for start in range(0, B, BLOCK):
        row = start + tl.arange(0, BLOCK)
        h = tl.load(entropy + row, mask=row < B, other=float("nan"))
        slot = tl.load(slots + row, mask=row < B, other=-1).to(tl.int64)
        use = (row < B) & (slot >= 0) & (h == h)
        seen = tl.load(seen_ptr + slot, mask=use, other=0)
        fired = tl.load(fired_ptr + slot, mask=use, other=0)
        threshold, most = thresholds(ring, knobs, seen, slot, use, R, RP)
        wanted = use & (h > threshold) & (fired.to(tl.float32) < most)
        place = wanted_before + tl.cumsum(wanted.to(tl.int32), axis=0)
        taken = wanted & (place <= C)
        tl.debug_barrier()  # every thread has read the slots before one writes them
        tl.store(rows + place - 1, row, mask=taken)
        tl.store(threshold_ptr + row, tl.where(use, threshold, float("nan")), mask=row < B)
        tl.store(ring + slot * R + seen % R, h, mask=use)
        tl.store(seen_ptr + slot, seen + 1, mask=use)
        tl.store(fired_ptr + slot, fired + 1, mask=taken)
        wanted_before += tl.sum(wanted.to(tl.int32), axis=0)
        taken_before += tl.sum(taken.to(tl.int32), axis=0)
    place = tl.arange(0, CP)
    tl.store(rows + place, tl.full([CP], -1, tl.int32), mask=(place >= taken_before) & (place < C))
    tl.store(count, taken_before)
    tl.store(dropped, wanted_before - taken_before)


@triton.jit
def confidence_step(confidence, slots, ring, seen_ptr, lowest, knobs, stop, group_ptr, W, WP: tl.constexpr):
    """Grid (B,). The current confidence replaces its place of the ring in registers, so store and load need no
    order."""
    row = tl.program_id(0)
    c = tl.load(confidence + row)
    slot = tl.load(slots + row).to(tl.int64)
    use = (slot >= 0) & (c == c)
    slot = tl.where(use, slot, 0)
    seen = tl.load(seen_ptr + slot) + 1
    window = tl.load(knobs + slot * 2)
    threshold = tl.load(knobs + slot * 2 + 1)
    at = tl.arange(0, WP)
    place = (seen - 1) % W
    w = tl.load(ring + slot * W + at, mask=at < W, other=0.0)
    w = tl.where(at == place, c, w)
    age = (place - at + W) % W
    filled = tl.minimum(window, seen.to(tl.float32))
    group = tl.sum(tl.where((at < W) & (age < filled), w, 0.0), axis=0) / filled
    full = use & (seen.to(tl.float32) >= window)
    old = tl.load(lowest + slot)
    tl.debug_barrier()  # every thread has read the slot before one writes it
    tl.store(stop + row, full & (group < threshold))
    tl.store(group_ptr + row, tl.where(use, group, float("nan")))
    if use:
        tl.store(ring + slot * W + at, w, mask=at == place)
        tl.store(seen_ptr + slot, seen)
        tl.store(lowest + slot, tl.where(full, tl.minimum(old, group), old))


def launch_entropy(entropy: torch.Tensor, slots: torch.Tensor, gate: EntropyGate, out: Flagged) -> None:
    """One program for the whole batch."""
    rows, ring, capacity = entropy.shape[0], gate.ring.shape[1], out.rows.shape[0]
    entropy_step[(1,)](
        entropy, slots, gate.ring, gate.seen, gate.fired, gate.knobs, out.rows, out.count, out.dropped, out.threshold,
        rows, ring, capacity,
        RP=triton.next_power_of_2(ring), BLOCK=min(triton.next_power_of_2(max(rows, 16)), MAX_BLOCK),
        CP=triton.next_power_of_2(capacity),
        num_warps=WARPS,
    )  # fmt: skip


def launch_confidence(
    confidence: torch.Tensor, slots: torch.Tensor, gate: ConfidenceGate, stop: torch.Tensor, group: torch.Tensor
) -> None:
    """One program per row."""
    width = gate.ring.shape[1]
    if confidence.shape[0]:
        confidence_step[(confidence.shape[0],)](
            confidence, slots, gate.ring, gate.seen, gate.lowest, gate.knobs, stop, group, width,
            WP=triton.next_power_of_2(width), num_warps=WARPS,
        )  # fmt: skip
