"""SRGen's running state: what the corrective fit needs of the past, at a cost independent of the length.

Legend: M slots (one per running request; slot -1 is nobody), V vocabulary, K sparse entries per token, L tokens kept
sparse, N rows of logits. For every position i of a request with next-token distribution p_i = softmax(z_i), at
temperature 1:
    ids, probs [M, L, K]   the K most likely tokens and their probabilities
    tail_mass [M, L]       1 - sum of those K
    tail [M, V]            running sum over i of p_i outside those K      (of all of p_i beyond L tokens, or with K = 0)
    labels [M, V]          how often each token followed
so that sum_i softmax(z_i + u) can be rebuilt for any shared shift u (`srgen_fit`): exactly on the sparse part, with
the mean of e^u over the tail on the rest. Numerics: fp32; counts are whole numbers. Bytes moved per step and row: 4
V of logits + 8 V of tail. Memory per slot: 8 V + 8 L K + 4 L bytes (1.9 MB at V = 151936, L = 4096, K = 20).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from strop.kernels.dispatch import use_triton
from strop.kernels.row_stats import RowStats


@dataclass(frozen=True)
class FitKnobs:
    """Knobs of one request's fit; the defaults are the paper's script. steps * lr is the strength; temperature is the
    sampling one."""

    steps: int = 3
    lr: float = 0.01
    entropy_weight: float = 0.05
    temperature: float = 1.0


@dataclass(frozen=True)
class SlotState:
    """Per-slot tensors (see the module); each has one more row at the end, where slot -1 writes."""

    ids: Tensor
    probs: Tensor
    tail_mass: Tensor
    tail: Tensor
    labels: Tensor
    positions: Tensor
    labelled: Tensor
    knobs: Tensor

    @staticmethod
    def allocate(
        slots: int, vocab: int, device: torch.device | str, *, sparse: int = 20, max_tokens: int = 4096
    ) -> SlotState:
        """State for `slots` requests at a time. sparse = 0 keeps the mean softmax alone: enough for a fit of one
        step."""

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(slots + 1, *shape, dtype=dtype, device=device)

        length = max_tokens if sparse else 0
        return SlotState(
            ids=zeros(length, sparse, dtype=torch.int32),
            probs=zeros(length, sparse),
            tail_mass=zeros(length),
            tail=zeros(vocab),
            labels=zeros(vocab),
            positions=zeros(dtype=torch.int32),
            labelled=zeros(dtype=torch.int32),
            knobs=zeros(4),
        )

    @property
    def sparse(self) -> int:
        """K, the entries kept per token."""
        return self.ids.shape[2]

    def open(self, slot: int, knobs: FitKnobs) -> None:
        """Give a slot to a new request: forgets the previous one."""
        row = (knobs.steps, knobs.lr, knobs.entropy_weight, knobs.temperature if knobs.temperature > 0 else 1.0)
        self.knobs[slot] = torch.tensor(row, dtype=torch.float32, device="cpu").to(self.knobs.device, non_blocking=True)
        for field in (self.tail, self.labels, self.positions, self.labelled):
            field[slot] = 0


class Plan(NamedTuple):
    """Where each row of logits goes: slot [N] int64 (the scratch row for a skipped one) and position [N] int64 within
    the slot's tokens."""

    slot: Tensor
    position: Tensor
    counted: Tensor


def srgen_observe(
    state: SlotState,
    slots: Tensor,
    logits: Tensor,
    stats: RowStats,
    *,
    labels: Tensor | None = None,
    offsets: Tensor | None = None,
) -> None:
    """Add positions to the state, in place: one per slot at a decode step, or a whole prompt. No host synchronisation.

    Args:
        state: the state.
        slots: [R] int64 distinct slots, -1 for a row to skip.
        logits: [N, V] the model's own logits, before any correction or temperature; N = R unless `offsets` is given.
        stats: `row_stats(logits, topk=k)` with k >= K, at any temperature.
        labels: [N] int64, the token that followed each row; a row with a label outside [0, V) is left out. Without it
        every row counts, and
            its label has to follow through `srgen_label`.
        offsets: [R + 1] int64; slot r owns the rows [offsets[r], offsets[r + 1]).

    Raises:
        ValueError: shapes that do not fit.
    """
    if (
        logits.dim() != 2
        or logits.shape[1] != state.tail.shape[1]
        or (labels is not None and labels.shape != logits.shape[:1])
    ):
        raise ValueError(f"logits are [N, {state.tail.shape[1]}] and labels [N], got {tuple(logits.shape)}")
    if offsets is None and slots.shape != logits.shape[:1]:
        raise ValueError("without offsets there is one row of logits per slot")
    if stats.topk_ids.shape[1] < state.sparse:
        raise ValueError(f"the state keeps {state.sparse} entries per token, stats have {stats.topk_ids.shape[1]}")
    plan = make_plan(state, slots, stats.valid, labels, offsets)
    if use_triton("srgen_observe", logits):
        from strop.kernels import triton_srgen_state

        triton_srgen_state.launch_observe(state, slots, logits, stats, plan, offsets)
    else:
        observe_reference(state, logits, stats, plan)
    state.positions.index_add_(0, plan.slot, plan.counted.int())
    if labels is not None:
        count_labels(state, plan.slot, torch.where(plan.counted, labels, 0), plan.counted)


def srgen_label(state: SlotState, slots: Tensor, tokens: Tensor) -> None:
    """Tell the state which token followed the last observed position: slots [R] int64 (-1: skip), tokens [R] int64
    (out of range: skip)."""
    known = (slots >= 0) & (tokens >= 0) & (tokens < state.labels.shape[1])
    count_labels(state, torch.where(known, slots, -1), torch.where(known, tokens, 0), known)


def count_labels(state: SlotState, slot_N: Tensor, token_N: Tensor, known_N: Tensor) -> None:
    """Whole numbers added in fp32: exact in any order, so the sum is deterministic."""
    scratch = state.labels.shape[0] - 1
    slot_N = torch.where(known_N, slot_N, scratch)
    state.labels.index_put_((slot_N, token_N), known_N.float(), accumulate=True)
    state.labelled.index_add_(0, slot_N, known_N.int())


def observe_reference(state: SlotState, logits: Tensor, stats: RowStats, plan: Plan) -> None:
    """The tail and the sparse entries of `srgen_observe` in plain torch."""
    length, sparse = state.tail_mass.shape[1], state.sparse
    log_p_NV = logits.float() - stats.max_logit[:, None] - stats.raw_log_z[:, None]
    p_NV = torch.where(plan.counted[:, None], log_p_NV.exp(), 0.0)
    if sparse:
        ids_NK = stats.topk_ids[:, :sparse]
        p_NK = p_NV.gather(1, ids_NK)
        kept_N = plan.counted & (plan.position < length)
        slot_N, at_N = torch.where(kept_N, plan.slot, state.tail.shape[0] - 1), torch.where(kept_N, plan.position, 0)
        state.ids[slot_N, at_N] = ids_NK.int()
        state.probs[slot_N, at_N] = p_NK
        state.tail_mass[slot_N, at_N] = (1.0 - p_NK.sum(dim=1)).clamp(min=0.0)
        p_NV.scatter_(1, ids_NK, torch.where(kept_N[:, None], 0.0, p_NK))
    state.tail.index_add_(0, plan.slot, p_NV)


def make_plan(
    state: SlotState, slots_R: Tensor, valid_N: Tensor, labels_N: Tensor | None, offsets: Tensor | None
) -> Plan:
    """Assign every row of logits its slot and place; fixed shapes, no synchronisation."""
    scratch, rows = state.tail.shape[0] - 1, valid_N.shape[0]
    slots_R = slots_R.long()
    first_N = torch.arange(rows, device=slots_R.device)
    if offsets is not None:
        owner_N = torch.repeat_interleave(offsets.diff(), output_size=rows)
        slots_R, first_N = slots_R[owner_N], offsets.long()[owner_N]
    counted_N = (slots_R >= 0) & valid_N
    if labels_N is not None:
        counted_N = counted_N & (labels_N >= 0) & (labels_N < state.labels.shape[1])
    slot_N = torch.where(counted_N, slots_R, scratch)
    before_N = counted_N.cumsum(0) - counted_N.long()
    return Plan(slot_N, state.positions[slot_N] + before_N - before_N[first_N], counted_N)
