"""Triton kernel behind `row_stats(topk=k)`: the exact k largest of a row from the maxima of its 64-column groups.

The k largest elements lie in the k best groups, so one program reads G maxima and k * 64 logits. A key packs the
value and the id into one int64: `order-preserving bits << 32 | (2**31 - 1 - id)`. Keys are unique and equal values
rank by smaller id. k rounds of "take the largest" are cheaper to compile and to run than a sort for k <= 32.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

WARPS = 8
LOWEST = tl.constexpr(-(2**63))  # below the key of every real element, -inf included


@triton.jit
def pack(x, index):
    """Keys that sort like (value descending, id ascending). Adding 0.0 turns -0.0 into 0.0."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    bits = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    return (bits.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@triton.jit
def unpack_value(key):
    """The float32 inside a key."""
    bits = (key >> 32).to(tl.int32)
    return tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def largest(key, K, KP: tl.constexpr):
    """The K largest of the keys, in order, in the first K of KP places; the rest hold the lowest key."""
    place = tl.arange(0, KP)
    chosen = tl.full([KP], LOWEST, tl.int64)
    for r in range(K):
        best = tl.max(key, axis=0)
        chosen = tl.where(place == r, best, chosen)
        key = tl.where(key == best, LOWEST, key)
    return chosen


@triton.jit
def topk_from_groups(logits, bias, temperature, floats, groups, ids, logprobs, V, stride, n_groups, K,
                     HAS_T: tl.constexpr, HAS_BIAS: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
                     KP: tl.constexpr):  # fmt: skip
    """Grid (B,). Writes ids[B, K], logprobs[B, K] and the row's confidence into floats[7]."""
    row = tl.program_id(0).to(tl.int64)
    n_rows = tl.num_programs(0)
    g = tl.arange(0, GROUPS)
    best = tl.load(groups + row * n_groups + g, mask=g < n_groups, other=float("-inf"))
    chosen = largest(tl.where(g < n_groups, pack(best, g), LOWEST), K, KP)
    group = tl.where(chosen == LOWEST, n_groups, 0x7FFFFFFF - (chosen & 0x7FFFFFFF).to(tl.int32))
    cols = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = (group[:, None] < n_groups) & (cols < V)
    x = tl.load(logits + row * stride + cols, mask=inside, other=float("-inf")).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + cols, mask=inside, other=0.0)
    key = tl.where(inside, pack(x, cols), LOWEST)
    chosen = largest(tl.reshape(key, [KP * GROUP]), K, KP)
    place = tl.arange(0, KP)
    value = unpack_value(chosen)
    d = tl.where(value > -1e30, value, float("-inf")) - tl.load(floats + row)
    inverse = 1.0
    if HAS_T:
        t = tl.load(temperature + row).to(tl.float32)
        inverse = 1.0 / tl.where(t > 0, tl.maximum(t, 1e-6), 1.0)
    tl.store(ids + row * K + place, 0x7FFFFFFF - (chosen & 0x7FFFFFFF), mask=place < K)
    tl.store(logprobs + row * K + place, d * inverse - tl.load(floats + n_rows + row), mask=place < K)
    raw = tl.where(place < K, d - tl.load(floats + 2 * n_rows + row), 0.0)
    mean = tl.sum(raw, axis=0) / K
    tl.store(floats + 7 * n_rows + row, tl.where(mean > float("-inf"), -mean, float("nan")))
