"""Two products with the head's weight for a handful of rows: one read of W each, none when no row is flagged.

Legend: C <= 16 rows per launch, V vocabulary, d hidden size, S splits of V.
    push   out[C, V] = scale * delta[C, d] @ W^T      or   logits[rows[c]] += that
    pull   partial[S, C, d] = g[C, V] @ W             summed over S by the caller, in order: deterministic

16-bit weights stay 16-bit on the tensor cores; the fp32 operand is split in two halves of the weight's type (x = hi
+ lo:
16 bits of mantissa for bf16, 22 for fp16). fp32 weights, and the interpreter, whose bf16 dot is wrong, multiply in
fp32. Bytes moved: V d itemsize.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from strop.kernels.dispatch import interpreted

ROWS = 16
BLOCK_V = 128
BLOCK_D = 64
PULL_V = 64
PULL_D = 128
WARPS = 4
STAGES = 4


@triton.jit
def product(x, w, total, UPCAST: tl.constexpr):
    """total + 1024 * x @ w for fp32 x: w of 16 bits on the tensor cores, or both in fp32. The factor keeps fp16
    off its floor."""
    x *= 1024.0
    if UPCAST:
        total = tl.dot(x, w.to(tl.float32), total, input_precision="ieee")
    else:
        high = x.to(w.dtype)
        low = (x - high.to(tl.float32)).to(w.dtype)
        total = tl.dot(low, w, tl.dot(high, w, total))
    return total


@triton.jit
def push_rows(weight, delta, out, rows, count, scale, V, D, stride, FIRST, C,
              ADD: tl.constexpr, UPCAST: tl.constexpr, ROWS: tl.constexpr, BLOCK_V: tl.constexpr,
              BLOCK_D: tl.constexpr):  # fmt: skip
    """Grid (cdiv(V, BLOCK_V),)."""
    n = tl.load(count) - FIRST
    if n > 0:
        c = tl.arange(0, ROWS)
        v = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
        base = weight + v[None, :].to(tl.int64) * D
        total = tl.full([ROWS, BLOCK_V], 0.0, tl.float32)
        for at in range(0, D, BLOCK_D):
            k = at + tl.arange(0, BLOCK_D)
            x = tl.load(
                delta + (FIRST + c)[:, None] * D + k[None, :], mask=(c < n)[:, None] & (k < D)[None, :], other=0.0
            )
            w = tl.load(base + k[:, None], mask=(k < D)[:, None] & (v < V)[None, :], other=0.0)
            total = product(x, w, total, UPCAST)
        inside = (c < n)[:, None] & (FIRST + c < C)[:, None] & (v < V)[None, :]
        row = FIRST + c
        if ADD:
            row = tl.load(rows + FIRST + c, mask=(c < n) & (FIRST + c < C), other=0)
        to = out + row[:, None].to(tl.int64) * stride + v[None, :]
        total *= scale / 1024.0
        if ADD:
            total += tl.load(to, mask=inside, other=0.0).to(tl.float32)
        tl.store(to, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def pull_rows(weight, gradient, partial, count, V, D, chunk, FIRST, C,
              UPCAST: tl.constexpr, ROWS: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """Grid (cdiv(d, BLOCK_D), S): split s sums the vocabulary rows [s*chunk, s*chunk + chunk)."""
    n = tl.load(count) - FIRST
    if n > 0:
        c = tl.arange(0, ROWS)
        k = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
        begin = tl.program_id(1) * chunk
        total = tl.full([ROWS, BLOCK_D], 0.0, tl.float32)
        line = (FIRST + c)[:, None].to(tl.int64) * V
        for at in range(begin, tl.minimum(begin + chunk, V), BLOCK_V):
            v = at + tl.arange(0, BLOCK_V)
            x = tl.load(gradient + line + v[None, :], mask=(c < n)[:, None] & (v < V)[None, :], other=0.0)
            w = tl.load(
                weight + v[:, None].to(tl.int64) * D + k[None, :], mask=(v < V)[:, None] & (k < D)[None, :], other=0.0
            )
            total = product(x, w, total, UPCAST)
        to = partial + (tl.program_id(1) * C + FIRST + c)[:, None].to(tl.int64) * D + k[None, :]
        tl.store(to, total / 1024.0, mask=(c < n)[:, None] & (FIRST + c < C)[:, None] & (k < D)[None, :])


def upcast(weight: torch.Tensor) -> bool:
    """Whether products with this weight run in fp32."""
    return weight.dtype == torch.float32 or interpreted()


def push(weight: torch.Tensor, delta: torch.Tensor, scale: float, count: torch.Tensor, out: torch.Tensor,
         rows: torch.Tensor | None = None) -> None:  # fmt: skip
    """out [C, V] = scale * delta @ W^T for the first `count` rows; with `rows`, added to those rows of out [B, V]."""
    vocab, size = weight.shape
    for first in range(0, delta.shape[0], ROWS):
        push_rows[(triton.cdiv(vocab, BLOCK_V),)](
            weight, delta, out, count if rows is None else rows, count, scale, vocab, size, out.stride(0), first,
            delta.shape[0],
            ADD=rows is not None, UPCAST=upcast(weight), ROWS=ROWS, BLOCK_V=BLOCK_V, BLOCK_D=BLOCK_D, num_warps=WARPS,
            num_stages=STAGES,
        )  # fmt: skip


def pull(weight: torch.Tensor, gradient: torch.Tensor, count: torch.Tensor, partial: torch.Tensor) -> None:
    """partial [S, C, d]: the split sums of gradient [C, V] @ W for the first `count` rows."""
    (vocab, size), splits = weight.shape, partial.shape[0]
    chunk = triton.cdiv(triton.cdiv(vocab, PULL_V), splits) * PULL_V
    for first in range(0, gradient.shape[0], ROWS):
        pull_rows[(triton.cdiv(size, PULL_D), splits)](
            weight, gradient, partial, count, vocab, size, chunk, first, gradient.shape[0],
            UPCAST=upcast(weight), ROWS=ROWS, BLOCK_V=PULL_V, BLOCK_D=PULL_D, num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
