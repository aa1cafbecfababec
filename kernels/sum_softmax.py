"""Sum over rows of a shifted softmax: what the exact corrective fit needs of a prefix.

Legend: n rows, V vocabulary.     sum_softmax(z, u)_v = sum_i softmax(z_i + u)_v        u [V] shared by all rows

fp32 accumulators, rows in a fixed order (no atomics). Bytes moved: 2 n V itemsize (one pass for the normalisers, one
for the sum).
"""

from __future__ import annotations

import torch
from torch import Tensor

from strop.kernels.dispatch import use_triton
from strop.kernels.row_stats import RowStats, row_stats, rows_per_slice

GROUPS = 8  # row ranges summed by separate programs


def sum_softmax(logits: Tensor, bias: Tensor | None = None) -> Tensor:
    """[V] fp32 sum of the rows' distributions.

    Args:
        logits: [n, V] fp32, bf16 or fp16.
        bias: [V] fp32 added to every row before the softmax.

    Raises:
        ValueError: shapes that do not fit.
    """
    if not use_triton("sum_softmax", logits):
        return sum_softmax_reference(logits, bias)
    return triton_sum_softmax(logits, bias, row_stats(logits, bias=bias))


def triton_sum_softmax(logits: Tensor, bias: Tensor | None, stats: RowStats) -> Tensor:
    """The Triton path, given the rows' statistics at `bias`."""
    from strop.kernels import triton_srgen_state

    rows = logits.shape[0]
    offsets = torch.arange(GROUPS + 1, device=logits.device) * rows // GROUPS
    partial = torch.zeros(GROUPS, logits.shape[1], device=logits.device)
    triton_srgen_state.launch_sum(logits, bias, stats, offsets, partial)
    return partial.sum(dim=0)


def sum_softmax_reference(logits: Tensor, bias: Tensor | None = None) -> Tensor:
    """`sum_softmax` in plain torch, fp32, a slice of rows at a time."""
    total_V = logits.new_zeros(logits.shape[1], dtype=torch.float32)
    step = rows_per_slice(logits.shape[1], logits.device)
    for at in range(0, logits.shape[0], step):
        x = logits[at : at + step].float()
        total_V += torch.softmax(x if bias is None else x + bias, dim=1).sum(dim=0)
    return total_V
