"""DeepConf's sliding-group confidence for a ragged batch, on the device (arXiv 2508.15260): stop a trace that has lost
its confidence.

Legend: B rows of the step, M slots (one per running trace), W ring capacity. For a row in slot m with confidence C
(`row_stats(..., topk=20).confidence`, at T = 1, higher = more peaked), after appending C:
    group  = mean of the last `window` confidences of the slot     (of all of them while there are fewer)
    stop   = the window is full and group < threshold
    lowest = min of `group` over the steps with a full window: the trace's "lowest group" score (+inf before the first)
A row with slot -1, inactive, or with confidence NaN neither stops nor touches its slot; its group is NaN. A
threshold of -inf never stops (warm-up traces). Two rows of one step must not share a slot.

The mean is summed anew from the ring at every step, so it does not drift; fp32. Bytes moved: 4 W per row (2 MB at
256 rows, W = 2048: 0.5 us). One launch, no host synchronisation, fixed shapes: safe in a CUDA graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from strop.kernels.dispatch import use_triton


@dataclass(frozen=True)
class ConfidenceGate:
    """Per-slot state: ring [M, W] fp32, seen [M] int32, lowest [M] fp32, knobs [M, 2] fp32 (window, threshold)."""

    ring: Tensor
    seen: Tensor
    lowest: Tensor
    knobs: Tensor

    @staticmethod
    def allocate(slots: int, device: torch.device | str, max_window: int = 2048) -> ConfidenceGate:
        """State for `slots` traces at a time; every slot has to be opened before it is used."""
        return ConfidenceGate(
            ring=torch.zeros(slots, max_window, device=device),
            seen=torch.zeros(slots, dtype=torch.int32, device=device),
            lowest=torch.full((slots,), math.inf, device=device),
            knobs=torch.zeros(slots, 2, device=device),
        )

    def open(self, slot: int, *, window: int = 2048, threshold: float = -math.inf) -> None:
        """Give a slot to a new trace: forgets the previous one.

        Raises:
            ValueError: the window does not fit the ring.
        """
        if not 1 <= window <= self.ring.shape[1]:
            raise ValueError(f"window is 1 to {self.ring.shape[1]}, got {window}")
        self.knobs[slot] = torch.tensor((window, threshold), dtype=torch.float32, device="cpu").to(
            self.knobs.device, non_blocking=True
        )
        self.seen[slot] = 0
        self.lowest[slot] = math.inf


class Confidences(NamedTuple):
    """Result of a step: stop [B] bool, group [B] fp32."""

    stop: Tensor
    group: Tensor


def confidence_gate(
    confidence: Tensor, slots: Tensor, gate: ConfidenceGate, *, active: Tensor | None = None
) -> Confidences:
    """One step of the gate: append, average, decide. Updates `gate` in place.

    Args:
        confidence: [B] fp32.
        slots: [B] int32 or int64, -1 for a row that is not a trace's (padding).
        gate: the state.
        active: [B] bool; False leaves the row alone.

    Raises:
        ValueError: shapes that do not fit.
    """
    if (
        confidence.dim() != 1
        or slots.shape != confidence.shape
        or (active is not None and active.shape != confidence.shape)
    ):
        raise ValueError(
            f"confidence, slots and active are [B], got {tuple(confidence.shape)} and {tuple(slots.shape)}"
        )
    slots = slots.to(torch.int32) if active is None else torch.where(active, slots, -1).to(torch.int32)
    if not use_triton("confidence_gate", confidence):
        return confidence_gate_reference(confidence, slots, gate)
    from strop.kernels import triton_gates

    out = Confidences(torch.empty_like(slots, dtype=torch.bool), torch.empty_like(confidence, dtype=torch.float32))
    triton_gates.launch_confidence(confidence.float().contiguous(), slots.contiguous(), gate, out.stop, out.group)
    return out


def confidence_gate_reference(confidence: Tensor, slots: Tensor, gate: ConfidenceGate) -> Confidences:
    """`confidence_gate` in plain torch; fixed shapes, no synchronisation. `slots` already has -1 for inactive rows."""
    c_B, (n_slots, ring) = confidence.float(), gate.ring.shape
    use_B = (slots >= 0) & ~c_B.isnan()
    slot_B = torch.where(use_B, slots, n_slots).long()
    known_B = slot_B.clamp(max=n_slots - 1)
    window_B, threshold_B = gate.knobs[known_B].unbind(1)
    seen_B = gate.seen[known_B] + 1
    extended = torch.cat([gate.ring, gate.ring.new_zeros(1, ring)])
    extended[slot_B, torch.where(use_B, (seen_B - 1) % ring, 0).long()] = c_B
    gate.ring.copy_(extended[:n_slots])
    age_BW = torch.remainder(seen_B[:, None] - 1 - torch.arange(ring, device=c_B.device), ring)
    filled_B = torch.minimum(window_B, seen_B.float())
    group_B = torch.where(age_BW < filled_B[:, None], extended[slot_B], 0.0).sum(dim=1) / filled_B
    full_B = use_B & (seen_B >= window_B)
    gate.seen.add_(
        torch.zeros(n_slots + 1, dtype=torch.int32, device=c_B.device).index_put_((slot_B,), use_B.int())[:n_slots]
    )
    lowest = torch.full((n_slots + 1,), math.inf, device=c_B.device)
    lowest.index_put_((slot_B,), torch.where(full_B, group_B, math.inf))
    gate.lowest.copy_(torch.minimum(gate.lowest, lowest[:n_slots]))
    return Confidences(full_B & (group_B < threshold_B), torch.where(use_B, group_B, math.nan))
