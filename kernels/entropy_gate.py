"""SRGen's dynamic entropy threshold for a ragged batch, on the device (arXiv 2510.02919, as its code runs).

Legend: B rows of the step, M slots (one per running request), N window, R ring capacity >= N. For a row in slot m
with the N most recent entropies w of that slot, *before* the current one:
    threshold = max(mean(w) + k * max(std(w), min_std), min_threshold)      std with N - 1 (0 for N = 1)
              = warmup_threshold                                            until N entropies have been seen
    flagged   = H > threshold, strictly, and fewer than max_activations flags so far in this slot
The current entropy is appended either way, also when flagged. A row with slot -1, inactive, or with entropy NaN is
not flagged, and its slot is not touched. At most `capacity` rows are flagged in one step, in row order; flags beyond
it are let go, counted in `dropped`, and do not use up an activation. Two rows of one step must not share a slot.

Entropies are in nats at the sampling temperature. fp32 throughout; the spread is summed around the mean. Bytes
moved: 4 R + 40 per row (30 kB at 256 rows): launch latency only. One launch, no host synchronisation, fixed shapes:
safe in a CUDA graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from strop.kernels.dispatch import use_triton

KNOBS = 6


@dataclass(frozen=True)
class EntropyKnobs:
    """Threshold knobs of one request; the defaults are the paper's script. `window` must fit the ring."""

    window: int = 25
    k: float = 4.0
    min_std: float = 0.5
    min_threshold: float = 1.8
    warmup_threshold: float = 3.0
    max_activations: int = 20


@dataclass(frozen=True)
class EntropyGate:
    """Per-slot state: ring [M, R] fp32, seen and fired [M] int32, knobs [M, 6] fp32."""

    ring: Tensor
    seen: Tensor
    fired: Tensor
    knobs: Tensor

    @staticmethod
    def allocate(slots: int, device: torch.device | str, max_window: int = 32) -> EntropyGate:
        """State for `slots` requests at a time; every slot has to be opened before it is used."""
        return EntropyGate(
            ring=torch.zeros(slots, max_window, device=device),
            seen=torch.zeros(slots, dtype=torch.int32, device=device),
            fired=torch.zeros(slots, dtype=torch.int32, device=device),
            knobs=torch.zeros(slots, KNOBS, device=device),
        )

    def open(self, slot: int, knobs: EntropyKnobs) -> None:
        """Give a slot to a new request: forgets the previous one. Asynchronous, ordered with the kernels of the
        current stream.

        Raises:
            ValueError: the window does not fit the ring.
        """
        if not 1 <= knobs.window <= self.ring.shape[1]:
            raise ValueError(f"window is 1 to {self.ring.shape[1]}, got {knobs.window}")
        row = (knobs.window, knobs.k, knobs.min_std, knobs.min_threshold, knobs.warmup_threshold, knobs.max_activations)
        self.knobs[slot] = torch.tensor(row, dtype=torch.float32, device="cpu").to(self.knobs.device, non_blocking=True)
        self.seen[slot] = 0
        self.fired[slot] = 0


@dataclass(frozen=True)
class Flagged:
    """Rows to correct: rows [C] int32 ascending, -1 beyond the first `count`; count and dropped [1] int32; threshold
    [B] fp32 (NaN: untouched row)."""

    rows: Tensor
    count: Tensor
    dropped: Tensor
    threshold: Tensor

    @staticmethod
    def allocate(rows: int, capacity: int, device: torch.device | str) -> Flagged:
        """Uninitialised result tensors."""

        def int32(size: int) -> Tensor:
            return torch.empty(size, dtype=torch.int32, device=device)

        return Flagged(int32(capacity), int32(1), int32(1), torch.empty(rows, device=device))


def entropy_gate(
    entropy: Tensor,
    slots: Tensor,
    gate: EntropyGate,
    *,
    active: Tensor | None = None,
    capacity: int = 16,
    out: Flagged | None = None,
) -> Flagged:
    """One step of the gate: decide, append, compact. Updates `gate` in place.

    Args:
        entropy: [B] fp32 nats (`row_stats(...).entropy`).
        slots: [B] int32 or int64, -1 for a row that is not a request's (padding).
        gate: the state.
        active: [B] bool; False leaves the row alone.
        capacity: most rows flagged in this step.
        out: result tensors to reuse.

    Raises:
        ValueError: shapes that do not fit.
    """
    if entropy.dim() != 1 or slots.shape != entropy.shape or (active is not None and active.shape != entropy.shape):
        raise ValueError(f"entropy, slots and active are [B], got {tuple(entropy.shape)} and {tuple(slots.shape)}")
    if capacity < 1 or (out is not None and (out.rows.shape[0] != capacity or out.threshold.shape != entropy.shape)):
        raise ValueError("capacity is at least 1 and fits `out`")
    slots = slots.to(torch.int32) if active is None else torch.where(active, slots, -1).to(torch.int32)
    out = out or Flagged.allocate(entropy.shape[0], capacity, entropy.device)
    if not use_triton("entropy_gate", entropy):
        return entropy_gate_reference(entropy, slots, gate, out)
    from strop.kernels import triton_gates

    triton_gates.launch_entropy(entropy.float().contiguous(), slots.contiguous(), gate, out)
    return out


def entropy_gate_reference(entropy: Tensor, slots: Tensor, gate: EntropyGate, out: Flagged) -> Flagged:
    """`entropy_gate` in plain torch; fixed shapes, no synchronisation. `slots` already has -1 for inactive rows."""
    h_B, capacity = entropy.float(), out.rows.shape[0]
    use_B = (slots >= 0) & ~h_B.isnan()
    slot_B = torch.where(use_B, slots, 0).long()
    window_B, k_B, min_std_B, floor_B, warmup_B, most_B = gate.knobs[slot_B].unbind(1)
    seen_B, fired_B = gate.seen[slot_B], gate.fired[slot_B]
    age_BR = torch.remainder(
        seen_B[:, None] - 1 - torch.arange(gate.ring.shape[1], device=h_B.device), gate.ring.shape[1]
    )
    recent_BR = age_BR < torch.minimum(window_B, seen_B.float())[:, None]
    mean_B = torch.where(recent_BR, gate.ring[slot_B], 0.0).sum(dim=1) / window_B
    spread_B = torch.where(recent_BR, (gate.ring[slot_B] - mean_B[:, None]).square(), 0.0).sum(dim=1)
    std_B = (spread_B / (window_B - 1).clamp(min=1)).sqrt()
    threshold_B = torch.maximum(mean_B + k_B * torch.maximum(std_B, min_std_B), floor_B)
    threshold_B = torch.where(seen_B < window_B, warmup_B, threshold_B)
    wanted_B = use_B & (h_B > threshold_B) & (fired_B < most_B)
    place_B = wanted_B.cumsum(0)
    taken_B = wanted_B & (place_B <= capacity)
    out.threshold.copy_(torch.where(use_B, threshold_B, math.nan))
    out.count.copy_(taken_B.sum(dtype=torch.int32))
    out.dropped.copy_((wanted_B & ~taken_B).sum(dtype=torch.int32))
    rows_B = torch.arange(h_B.shape[0], dtype=torch.int32, device=h_B.device)
    padded = torch.full((capacity + 1,), -1, dtype=torch.int32, device=h_B.device)
    padded.scatter_(0, torch.where(taken_B, place_B - 1, capacity), torch.where(taken_B, rows_B, -1))
    out.rows.copy_(padded[:capacity])
    _append(gate, slots, use_B, h_B, taken_B)
    return out


def _append(gate: EntropyGate, slots_B: Tensor, use_B: Tensor, h_B: Tensor, taken_B: Tensor) -> None:
    """Write through a slot that does not exist, so that unused rows cost no synchronisation and touch nothing."""
    n_slots, ring = gate.ring.shape
    slot_B = torch.where(use_B, slots_B, n_slots).long()
    extended = torch.cat([gate.ring, gate.ring.new_zeros(1, ring)])
    at_B = torch.remainder(torch.where(use_B, gate.seen[slot_B.clamp(max=n_slots - 1)], 0), ring).long()
    extended[slot_B, at_B] = h_B
    gate.ring.copy_(extended[:n_slots])
    steps = torch.stack([use_B, taken_B], dim=1).to(torch.int32)
    counts = torch.zeros(n_slots + 1, 2, dtype=torch.int32, device=h_B.device).index_put_((slot_B,), steps)
    gate.seen.add_(counts[:n_slots, 0])
    gate.fired.add_(counts[:n_slots, 1])
