"""Triton kernels behind `srgen_observe` and `sum_softmax`.

Legend: N rows of logits, R groups of consecutive rows, V vocabulary, K sparse entries per token, L tokens kept
sparse.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from strop.kernels.row_stats import RowStats
    from strop.kernels.srgen_state import Plan, SlotState

BLOCK = 1024
WARPS = 4


@triton.jit
def append_sparse(logits, peak, log_z, topk_ids, slot_of, position_of, counted, ids, probs, tail_mass, stride,
top_stride, L, K,
                  KP: tl.constexpr):  # fmt: skip
    """Grid (N,). Writes one token's K entries and the mass beyond them."""
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(position_of + row)
    if (tl.load(counted + row) != 0) & (position < L):
        k = tl.arange(0, KP)
        token = tl.load(topk_ids + row * top_stride + k, mask=k < K, other=0)
        x = tl.load(logits + row * stride + token, mask=k < K, other=float("-inf")).to(tl.float32)
        p = tl.exp(x - tl.load(peak + row) - tl.load(log_z + row))
        at = tl.load(slot_of + row) * L + position
        tl.store(ids + at * K + k, token.to(tl.int32), mask=k < K)
        tl.store(probs + at * K + k, p, mask=k < K)
        tl.store(tail_mass + at, tl.maximum(1.0 - tl.sum(p, axis=0), 0.0))


@triton.jit
def add_tail(logits, bias, peak, log_z, topk_ids, position_of, counted, slots, offsets, tail, V, stride, top_stride,
L, K,
             HAS_OFFSETS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_PLAN: tl.constexpr, HAS_SPARSE: tl.constexpr,
             BLOCK: tl.constexpr):  # fmt: skip
    """Grid (R, cdiv(V, BLOCK)). tail[slot] += sum over the group's rows of softmax(z + bias) outside the K kept
    entries."""
    group = tl.program_id(0)
    slot = tl.load(slots + group).to(tl.int64)
    if slot >= 0:
        cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        begin = group.to(tl.int64)
        end = begin + 1
        if HAS_OFFSETS:
            begin = tl.load(offsets + group)
            end = tl.load(offsets + group + 1)
        shift = tl.full([BLOCK], 0.0, tl.float32)
        if HAS_BIAS:
            shift = tl.load(bias + cols, mask=cols < V, other=0.0)
        total = tl.full([BLOCK], 0.0, tl.float32)
        for row in range(begin, end):
            x = tl.load(logits + row * stride + cols, mask=cols < V, other=float("-inf")).to(tl.float32)
            p = tl.exp(x + shift - tl.load(peak + row) - tl.load(log_z + row))
            if HAS_PLAN:
                p = tl.where(tl.load(counted + row) != 0, p, 0.0)
            if HAS_SPARSE:
                last = tl.load(topk_ids + row * top_stride + K - 1)
                x_last = tl.load(logits + row * stride + last).to(tl.float32)
                kept = ((x > x_last) | ((x == x_last) & (cols <= last))) & (tl.load(position_of + row) < L)
                p = tl.where(kept, 0.0, p)
            total += p
        at = tail + slot * V + cols
        tl.store(at, tl.load(at, mask=cols < V, other=0.0) + total, mask=cols < V)


def launch_observe(state: SlotState, slots: torch.Tensor, logits: torch.Tensor, stats: RowStats, plan: Plan,
                   offsets: torch.Tensor | None) -> None:  # fmt: skip
    """One launch for the tail, one for the sparse entries."""
    rows, vocab = logits.shape
    length, sparse = state.tail_mass.shape[1], state.sparse
    if rows == 0:
        return
    top = stats.topk_ids if sparse else plan.slot
    grid = (slots.shape[0], triton.cdiv(vocab, BLOCK))
    add_tail[grid](
        logits, state.tail, stats.max_logit, stats.raw_log_z, top, plan.position, plan.counted,
        slots.long().contiguous(),
        plan.slot if offsets is None else offsets.long().contiguous(), state.tail, vocab, logits.stride(0),
        top.stride(0), length, sparse,
        HAS_OFFSETS=offsets is not None, HAS_BIAS=False, HAS_PLAN=True, HAS_SPARSE=sparse > 0, BLOCK=BLOCK,
        num_warps=WARPS,
    )  # fmt: skip
    if sparse:
        append_sparse[(rows,)](
            logits, stats.max_logit, stats.raw_log_z, top, plan.slot, plan.position, plan.counted, state.ids,
            state.probs, state.tail_mass,
            logits.stride(0), top.stride(0), length, sparse, KP=triton.next_power_of_2(sparse), num_warps=1,
        )  # fmt: skip


def launch_sum(
    logits: torch.Tensor, bias: torch.Tensor | None, stats: RowStats, offsets: torch.Tensor, partial: torch.Tensor
) -> None:
    """partial[g] += sum over the rows of group g of softmax(z + bias)."""
    groups, vocab = partial.shape
    ids = torch.arange(groups, device=logits.device)
    add_tail[(groups, triton.cdiv(vocab, BLOCK))](
        logits, partial if bias is None else bias, stats.max_logit, stats.raw_log_z, ids, ids, ids, ids, offsets,
        partial, vocab,
        logits.stride(0), 0, 0, 0, HAS_OFFSETS=True, HAS_BIAS=bias is not None, HAS_PLAN=False, HAS_SPARSE=False,
        BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
