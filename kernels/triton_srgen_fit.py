"""Triton kernels of `srgen_fit`'s state form around the two products with W: normalisers, sparse part, gradient, AdamW.

Legend: C capacity of the flagged list, S splits of V, NB blocks of tokens, L sparse tokens, K entries per token.
Program axis 0 is the flagged row; it returns at once when the device counter is not beyond it. The sparse part is
summed in 2^-40 fixed point with integer atomics: any order gives the same bits.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from strop.kernels.srgen_math import BETA1, BETA2
from strop.kernels.triton_row_stats import FLOOR, LN2, exp_sums, merge

if TYPE_CHECKING:
    from strop.kernels.entropy_gate import Flagged
    from strop.kernels.srgen_fit import FitWorkspace
    from strop.kernels.srgen_state import SlotState

SPLITS = 16
PULL_SPLITS = 16
LANES = 1024
TOKENS = 64
WARPS = 4
FIXED = tl.constexpr(1099511627776.0)  # 2**40


@triton.jit
def reduce_rows(logits, shift, tail, knobs, rows, count, slots, sums, V, stride, chunk,
                HAS_SHIFT: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """Grid (C, S). sums[5, C, S]: peak, sum e, sum d*e of z_last + u at the row's temperature; sum of tail * e^u, sum
    of tail."""
    f = tl.program_id(0)
    if f < tl.load(count):
        row = tl.load(rows + f).to(tl.int64)
        slot = tl.load(slots + row)
        scale = 1.4426950408889634 / tl.load(knobs + slot * 4 + 3)
        top = tl.full([LANES], -1e30, tl.float32)
        s = tl.full([LANES], 0.0, tl.float32)
        a = tl.full([LANES], 0.0, tl.float32)
        lifted = tl.full([LANES], 0.0, tl.float32)
        mass = tl.full([LANES], 0.0, tl.float32)
        begin = tl.program_id(1) * chunk
        for at in range(begin, tl.minimum(begin + chunk, V), LANES):
            cols = at + tl.arange(0, LANES)
            x = tl.load(logits + row * stride + cols, mask=cols < V, other=float("-inf")).to(tl.float32)
            t = tl.load(tail + slot * V + cols, mask=cols < V, other=0.0)
            mass += t
            if HAS_SHIFT:
                u = tl.load(shift + f.to(tl.int64) * V + cols, mask=cols < V, other=0.0)
                x += u
                t *= tl.exp(tl.minimum(u, 60.0))
            lifted += t
            new = tl.maximum(top, x)
            s, a = exp_sums(x[None, :], top, new, s, a, scale)
            top = new
        none = tl.full([LANES], 0.0, tl.float32)
        peak, s_all, a_all, _ = merge(top, s, a, none, none, scale)
        out = sums + f * tl.num_programs(1) + tl.program_id(1)
        plane = tl.num_programs(0) * tl.num_programs(1)
        tl.store(out, peak)
        tl.store(out + plane, s_all)
        tl.store(out + 2 * plane, a_all)
        tl.store(out + 3 * plane, tl.sum(lifted, axis=0))
        tl.store(out + 4 * plane, tl.sum(mass, axis=0))


@triton.jit
def tail_lift(sums, f, plane, SPLITS: tl.constexpr):
    """Mean of e^u over the tail; 1 without a tail."""
    at = sums + f * SPLITS + tl.arange(0, SPLITS)
    lifted = tl.sum(tl.load(at + 3 * plane), axis=0)
    mass = tl.sum(tl.load(at + 4 * plane), axis=0)
    return tl.where(mass > 0, lifted / tl.maximum(mass, 1e-30), 1.0)


@triton.jit
def add_sparse(shift, ids, probs, tail_mass, positions, rows, count, slots, sums, sparse, weights, V, L, K,
               HAS_SHIFT: tl.constexpr, SPLITS: tl.constexpr, TOKENS: tl.constexpr, KP: tl.constexpr):  # fmt: skip
    """Grid (C, NB). sparse[C, V] += p e^u / Z of the block's tokens; weights[2, C, NB]: sums of tail_mass / Z and of
    tail_mass."""
    f = tl.program_id(0)
    if f < tl.load(count):
        slot = tl.load(slots + tl.load(rows + f))
        i = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
        kept = i < tl.minimum(tl.load(positions + slot), L)
        k = tl.arange(0, KP)
        inside = kept[:, None] & (k < K)[None, :]
        at = (slot * L + i)[:, None] * K + k[None, :]
        token = tl.load(ids + at, mask=inside, other=0)
        p = tl.load(probs + at, mask=inside, other=0.0)
        if HAS_SHIFT:
            p *= tl.exp(tl.minimum(tl.load(shift + f.to(tl.int64) * V + token, mask=inside, other=0.0), 60.0))
        mass = tl.load(tail_mass + slot * L + i, mask=kept, other=0.0)
        z = tl.sum(p, axis=1) + mass * tail_lift(sums, f, tl.num_programs(0) * SPLITS, SPLITS)
        inverse = tl.where(kept, 1.0 / tl.where(kept, z, 1.0), 0.0)
        amount = (p * inverse[:, None] * FIXED).to(tl.int64)
        tl.atomic_add(sparse + f.to(tl.int64) * V + token, amount, mask=inside)
        out = weights + f * tl.num_programs(1) + tl.program_id(1)
        tl.store(out, tl.sum(mass * inverse, axis=0))
        tl.store(out + tl.num_programs(0) * tl.num_programs(1), tl.sum(mass, axis=0))


@triton.jit
def tail_weight(weights, positions, slot, f, lift, L, NB, HAS_SPARSE: tl.constexpr, NBP: tl.constexpr):
    """Factor of tail * e^u in the mean softmax's sum, and the number of positions (at least 1)."""
    n = tl.load(positions + slot)
    b = tl.arange(0, NBP)
    weighted = 0.0
    mass = 0.0
    if HAS_SPARSE:
        weighted = tl.sum(tl.load(weights + f * NB + b, mask=b < NB, other=0.0), axis=0)
        mass = tl.sum(tl.load(weights + (tl.num_programs(0) + f) * NB + b, mask=b < NB, other=0.0), axis=0)
    beyond = tl.maximum(n - L, 0).to(tl.float32)
    below = mass + beyond
    factor = tl.where(below > 0, (weighted + beyond / lift) / tl.maximum(below, 1e-30), 0.0)
    return factor, tl.maximum(n, 1).to(tl.float32)


@triton.jit
def make_gradient(logits, shift, tail, labels, labelled, positions, knobs, rows, count, slots, sums, sparse, weights,
gradient,
                  V, stride, L, NB, HAS_SHIFT: tl.constexpr, HAS_SPARSE: tl.constexpr, SPLITS: tl.constexpr, NBP:
                  tl.constexpr,
                  BLOCK: tl.constexpr):  # fmt: skip
    """Grid (C, cdiv(V, BLOCK)). gradient[C, V] of the loss in u; leaves the fixed-point sums at zero for the next
    step."""
    f = tl.program_id(0)
    if f < tl.load(count):
        row = tl.load(rows + f).to(tl.int64)
        slot = tl.load(slots + row)
        plane = tl.num_programs(0) * SPLITS
        at = sums + f * SPLITS + tl.arange(0, SPLITS)
        t = tl.load(knobs + slot * 4 + 3)
        weight = tl.load(knobs + slot * 4 + 2)
        scale = 1.4426950408889634 / t
        none = tl.full([SPLITS], 0.0, tl.float32)
        peak, s, a, _ = merge(tl.load(at), tl.load(at + plane), tl.load(at + 2 * plane), none, none, scale)
        entropy = tl.log(s) - a * LN2 / s
        factor, n = tail_weight(weights, positions, slot, f, tail_lift(sums, f, plane, SPLITS), L, NB, HAS_SPARSE, NBP)
        cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = cols < V
        x = tl.load(logits + row * stride + cols, mask=inside, other=float("-inf")).to(tl.float32)
        past = tl.load(tail + slot * V + cols, mask=inside, other=0.0) * factor
        here = f.to(tl.int64) * V + cols
        if HAS_SHIFT:
            u = tl.load(shift + here, mask=inside, other=0.0)
            x += u
            past *= tl.exp(tl.minimum(u, 60.0))
        if HAS_SPARSE:
            past += tl.load(sparse + here, mask=inside, other=0).to(tl.float32) / FIXED
            tl.store(sparse + here, tl.full([BLOCK], 0, tl.int64), mask=inside)
        seen = tl.maximum(tl.load(labelled + slot), 1).to(tl.float32)
        past = past / n - tl.load(labels + slot * V + cols, mask=inside, other=0.0) / seen
        d = tl.maximum((x - peak) * scale, FLOOR)
        log_q = d * LN2 - tl.log(s)
        last = -tl.exp(log_q) * (log_q + entropy) / t
        tl.store(gradient + here, (1 - weight) * past + weight * last, mask=inside)


@triton.jit
def adam_rows(pulled, delta, moments, knobs, rows, count, slots, scale, decay1, decay2, correction1, correction2,
STEP, D,
              FIRST: tl.constexpr, PULL_SPLITS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Grid (C, cdiv(d, BLOCK)). Sums the splits in order and takes one AdamW step; eps 1e-5, weight decay 1e-8."""
    f = tl.program_id(0)
    if f < tl.load(count):
        know = knobs + tl.load(slots + tl.load(rows + f)) * 4
        cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = cols < D
        here = f * D + cols
        plane = tl.num_programs(0) * D
        g = tl.full([BLOCK], 0.0, tl.float32)
        for split in range(PULL_SPLITS):
            g += tl.load(pulled + split * plane + here, mask=inside, other=0.0)
        g *= scale
        m = (1 - decay1) * g
        v = (1 - decay2) * g * g
        if not FIRST:
            m += decay1 * tl.load(moments + here, mask=inside, other=0.0)
            v += decay2 * tl.load(moments + plane + here, mask=inside, other=0.0)
        x = tl.load(delta + here, mask=inside, other=0.0)
        lr = tl.load(know + 1)
        moved = x * (1 - lr * 1e-8) - lr * (m / correction1) / (tl.sqrt(v / correction2) + 1e-5)
        tl.store(moments + here, m, mask=inside)
        tl.store(moments + plane + here, v, mask=inside)
        tl.store(delta + here, tl.where(tl.load(know) > STEP, moved, x), mask=inside)


def launch_gradient(logits: torch.Tensor, flagged: Flagged, state: SlotState, slots: torch.Tensor, work: FitWorkspace,
                    has_shift: bool) -> None:  # fmt: skip
    """work.gradient [C, V] at the shift in work.shift (zero if not has_shift). Two or three launches."""
    capacity, vocab = work.gradient.shape
    (length, sparse), stride, blocks = state.ids.shape[1:], logits.stride(0), work.weights.shape[2]
    chunk = triton.cdiv(triton.cdiv(vocab, LANES), SPLITS) * LANES
    which = (flagged.rows, flagged.count, slots, work.sums)
    reduce_rows[(capacity, SPLITS)](
        logits, work.shift, state.tail, state.knobs, *which, vocab, stride, chunk,
        HAS_SHIFT=has_shift, LANES=LANES, num_warps=WARPS,
    )  # fmt: skip
    if sparse:
        add_sparse[(capacity, blocks)](
            work.shift, state.ids, state.probs, state.tail_mass, state.positions, *which, work.sparse, work.weights,
            vocab, length, sparse,
            HAS_SHIFT=has_shift, SPLITS=SPLITS, TOKENS=TOKENS, KP=triton.next_power_of_2(sparse), num_warps=WARPS,
        )  # fmt: skip
    make_gradient[(capacity, triton.cdiv(vocab, LANES))](
        logits, work.shift, state.tail, state.labels, state.labelled, state.positions, state.knobs, *which,
        work.sparse, work.weights,
        work.gradient, vocab, stride, length, blocks, HAS_SHIFT=has_shift, HAS_SPARSE=sparse > 0, SPLITS=SPLITS,
        NBP=triton.next_power_of_2(blocks), BLOCK=LANES, num_warps=WARPS,
    )  # fmt: skip


def launch_adam(
    flagged: Flagged, state: SlotState, slots: torch.Tensor, work: FitWorkspace, scale: float, step: int
) -> None:
    """One AdamW step of work.delta [C, d], counted from 0."""
    capacity, size = work.delta.shape
    adam_rows[(capacity, triton.cdiv(size, 512))](
        work.pulled, work.delta, work.moments, state.knobs, flagged.rows, flagged.count, slots, scale,
        BETA1, BETA2, 1 - BETA1 ** (step + 1), 1 - BETA2 ** (step + 1), step, size,
        FIRST=step == 0, PULL_SPLITS=PULL_SPLITS, BLOCK=512, num_warps=WARPS,
    )  # fmt: skip
