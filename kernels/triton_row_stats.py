"""Triton kernels behind `row_stats`: one pass over the row split between programs, then one small merge.

Legend: B rows, V vocabulary, S splits of a row, G groups of 64 columns. Each lane keeps its own running maximum, so
the loop has no block-wide reduction, no barrier and no branch. Distances from the maximum are in units of log2:
`exp2` is one instruction, `exp` is four. Logits at or below -1e30 count as masked.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from strop.kernels import triton_topk

if TYPE_CHECKING:
    from strop.kernels.row_stats import Workspace

GROUP = 64  # columns per group maximum
ROWS = 4  # a block is ROWS x lanes columns: 4096 of fp32, 8192 of 16 bits
WARPS = 8
FLOOR = tl.constexpr(-200.0)  # 2**-200 is zero in float32
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def log2_scale(temperature, row, HAS_T: tl.constexpr):
    """log2(e) / T of a row; T <= 0 (greedy) counts as 1."""
    scale = 1.4426950408889634
    if HAS_T:
        t = tl.load(temperature + row).to(tl.float32)
        scale = 1.4426950408889634 / tl.where(t > 0, tl.maximum(t, 1e-6), 1.0)
    return scale


@triton.jit
def logit_at(base, bias, y, V, HAS_BIAS: tl.constexpr):
    """The row's logit at id y, or -inf where y is out of range."""
    inside = (y >= 0) & (y < V)
    at = tl.where(inside, y, 0)
    x = tl.load(base + at).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + at)
    return tl.where(inside, x, float("-inf"))


@triton.jit
def exp_sums(x, top, new, s, a, scale):
    """Fold the columns x [R, L] into the running sums s = sum e and a = sum d*e, moving the maximum from top to new."""
    shift = tl.maximum((top - new) * scale, FLOOR)
    keep = tl.exp2(shift)
    d = tl.maximum((x - new[None, :]) * scale, FLOOR)
    e = tl.exp2(d)
    return s * keep + tl.sum(e, axis=0), (a + shift * s) * keep + tl.sum(d * e, axis=0)


@triton.jit
def merge(top, s, a, total, count, scale):
    """One maximum and one set of sums out of many lanes, each relative to its own maximum."""
    peak = tl.max(top, axis=0)
    shift = (top - peak) * scale
    total = tl.sum(total + shift * count, axis=0)
    shift = tl.maximum(shift, FLOOR)
    w = tl.exp2(shift)
    return peak, tl.sum(s * w, axis=0), tl.sum((a + shift * s) * w, axis=0), total


@triton.jit
def load_columns(base, bias, cols, V, HAS_BIAS: tl.constexpr):
    """Logits of the columns in fp32, -inf beyond the row."""
    x = tl.load(base + cols, mask=cols < V, other=float("-inf")).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + cols, mask=cols < V, other=0.0)
    return x


@triton.jit
def put_partial(partial, peak, s, a, total, count, above, raw):
    """Store one split's numbers into partial[7, B, S]."""
    out = partial + tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    plane = tl.num_programs(0).to(tl.int64) * tl.num_programs(1)
    tl.store(out, peak)
    tl.store(out + plane, s)
    tl.store(out + 2 * plane, a)
    tl.store(out + 3 * plane, total)
    tl.store(out + 4 * plane, count)
    tl.store(out + 5 * plane, above)
    tl.store(out + 6 * plane, raw)


@triton.jit
def split_stats(logits, bias, temperature, targets, partial, groups, V, stride, chunk, n_groups,
                HAS_T: tl.constexpr, HAS_TARGET: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_GROUPS: tl.constexpr,
                ROWS: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """Grid (B, S). Sums over one row's columns [split*chunk, split*chunk + chunk) -> partial[7, B, S]."""
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * stride
    scale = log2_scale(temperature, row, HAS_T)
    if HAS_TARGET:
        x_y = tl.maximum(logit_at(base, bias, tl.load(targets + row), V, HAS_BIAS), -1e30)
    top = tl.full([LANES], -1e30, tl.float32)
    s = tl.full([LANES], 0.0, tl.float32)
    a = tl.full([LANES], 0.0, tl.float32)
    total = tl.full([LANES], 0.0, tl.float32)
    count = tl.full([LANES], 0.0, tl.float32)
    above = tl.full([LANES], 0.0, tl.float32)
    raw = tl.full([LANES], 0.0, tl.float32)
    begin = tl.program_id(1) * chunk
    for at in range(begin, tl.minimum(begin + chunk, V), ROWS * LANES):
        cols = at + tl.arange(0, ROWS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
        x = load_columns(base, bias, cols, V, HAS_BIAS)
        if HAS_GROUPS:
            g = at // GROUP + tl.arange(0, ROWS * LANES // GROUP)
            best = tl.max(tl.reshape(x, [ROWS * LANES // GROUP, GROUP]), axis=1)
            tl.store(groups + row * n_groups + g, best, mask=g < n_groups)
        if HAS_TARGET:
            above += tl.sum((x > x_y).to(tl.float32), axis=0)
        new = tl.maximum(top, tl.max(x, axis=0))
        if HAS_T:
            d = tl.exp2(tl.maximum((x - new[None, :]) * LOG2E, FLOOR))
            raw = raw * tl.exp2(tl.maximum((top - new) * LOG2E, FLOOR)) + tl.sum(d, axis=0)
        real = x > -1e30
        d = tl.where(real, (x - new[None, :]) * scale, 0.0)
        total += (top - new) * scale * count + tl.sum(d, axis=0)
        count += tl.sum(real.to(tl.float32), axis=0)
        s, a = exp_sums(x, top, new, s, a, scale)
        top = new
    raw = tl.sum(raw * tl.exp2(tl.maximum((top - tl.max(top, axis=0)) * LOG2E, FLOOR)), axis=0)
    peak, z, az, dz = merge(top, s, a, total, count, scale)
    put_partial(partial, peak, z, az, dz, tl.sum(count, axis=0), tl.sum(above, axis=0), raw)


@triton.jit
def of_target(base, bias, y, V, peak, scale, log_z, above, HAS_BIAS: tl.constexpr):
    """Log-probability and rank of id y: NaN and 0 where it is out of range."""
    inside = (y >= 0) & (y < V)
    x = logit_at(base, bias, y, V, HAS_BIAS)
    logprob = (tl.where(x > -1e30, x, float("-inf")) - peak) * scale * LN2 - log_z
    return tl.where(inside, logprob, float("nan")), tl.where(inside, above.to(tl.int64) + 1, 0)


@triton.jit
def merge_splits(logits, bias, temperature, targets, partial, floats, ints, V, stride, n_splits,
                 HAS_T: tl.constexpr, HAS_TARGET: tl.constexpr, HAS_BIAS: tl.constexpr,
                 SPLITS: tl.constexpr):  # fmt: skip
    """Grid (B,). partial[7, B, S] -> floats[8, B] (the last is NaN until the top-k kernel) and ints[2, B]."""
    row = tl.program_id(0).to(tl.int64)
    scale = log2_scale(temperature, row, HAS_T)
    split = tl.arange(0, SPLITS)
    here = split < n_splits
    at = partial + row * n_splits + split
    n_rows = tl.num_programs(0)
    plane = n_rows.to(tl.int64) * n_splits
    top = tl.load(at, mask=here, other=-1e30)
    s = tl.load(at + plane, mask=here, other=0.0)
    a = tl.load(at + 2 * plane, mask=here, other=0.0)
    total = tl.load(at + 3 * plane, mask=here, other=0.0)
    count = tl.load(at + 4 * plane, mask=here, other=0.0)
    peak, s, a, total = merge(top, s, a, total, count, scale)
    support = tl.sum(count, axis=0)
    nothing = support == 0
    log_z = tl.where(nothing, float("nan"), tl.log(s))
    raw_log_z = log_z
    if HAS_T:
        raw = tl.load(at + 6 * plane, mask=here, other=0.0) * tl.exp2(tl.maximum((top - peak) * LOG2E, FLOOR))
        raw_log_z = tl.where(nothing, float("nan"), tl.log(tl.sum(raw, axis=0)))
    logprob = float("nan") + log_z
    rank = 0
    if HAS_TARGET:
        above = tl.sum(tl.load(at + 5 * plane, mask=here, other=0.0), axis=0)
        y = tl.load(targets + row)
        logprob, rank = of_target(logits + row * stride, bias, y, V, peak, scale, log_z, above, HAS_BIAS)
    out = floats + row
    tl.store(out, tl.where(nothing, float("-inf"), peak))
    tl.store(out + n_rows, log_z)
    tl.store(out + 2 * n_rows, raw_log_z)
    tl.store(out + 3 * n_rows, tl.where(nothing, float("-inf"), peak * scale * LN2 + log_z))
    tl.store(out + 4 * n_rows, logprob)
    tl.store(out + 5 * n_rows, tl.where(nothing, float("nan"), tl.maximum(log_z - a * LN2 / s, 0.0)))
    tl.store(out + 6 * n_rows, total * LN2 / support - log_z)
    tl.store(out + 7 * n_rows, float("nan"))
    tl.store(ints + row, rank)
    tl.store(ints + n_rows + row, support.to(tl.int64))


def launch(logits: torch.Tensor, targets: torch.Tensor | None, temperature: torch.Tensor | None, topk: int,
           bias: torch.Tensor | None, work: Workspace) -> None:  # fmt: skip
    """Fill the workspace: floats[8, B], ints[2, B] and, if topk > 0, ids and logprobs[B, topk]. Two or three
    launches."""
    n_rows, vocab = logits.shape
    splits = work.partial.shape[2]
    lanes = 1024 if logits.dtype == torch.float32 else 2048
    block = ROWS * lanes
    chunk = triton.cdiv(triton.cdiv(vocab, block), splits) * block
    n_groups = triton.cdiv(vocab, GROUP)
    has_t, has_y, has_b = temperature is not None, targets is not None, bias is not None
    any_ptr = work.floats
    bias, temperature = (any_ptr if bias is None else bias), (any_ptr if temperature is None else temperature)
    targets = work.ints if targets is None else targets
    stride = logits.stride(0)
    split_stats[(n_rows, splits)](
        logits, bias, temperature, targets, work.partial, work.groups, vocab, stride, chunk, n_groups,
        HAS_T=has_t, HAS_TARGET=has_y, HAS_BIAS=has_b, HAS_GROUPS=topk > 0, ROWS=ROWS, LANES=lanes, GROUP=GROUP,
        num_warps=WARPS,
    )  # fmt: skip
    merge_splits[(n_rows,)](
        logits, bias, temperature, targets, work.partial, work.floats, work.ints, vocab, stride, splits,
        HAS_T=has_t, HAS_TARGET=has_y, HAS_BIAS=has_b, SPLITS=triton.next_power_of_2(splits), num_warps=1,
    )  # fmt: skip
    if topk > 0:
        triton_topk.topk_from_groups[(n_rows,)](
            logits, bias, temperature, work.floats, work.groups, work.topk_ids, work.topk_logprobs, vocab, stride,
            n_groups, topk,
            HAS_T=has_t, HAS_BIAS=has_b, GROUP=GROUP, GROUPS=triton.next_power_of_2(n_groups),
            KP=triton.next_power_of_2(topk),
            num_warps=triton_topk.WARPS,
        )  # fmt: skip
