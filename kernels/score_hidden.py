"""Log-probability and entropy of tokens from hidden states, without holding [T, V].

Legend: T tokens, V vocabulary, d hidden size, C rows per chunk (512).
    logits = softcap(scale * hidden @ weight^T)     then `row_stats` of every row (see there)

FLOP 2 T V d; compute-bound from T = 184 on an H200. Bytes: the weight once per chunk + 8 C V of fp32 logits per
chunk; workspace 4 C V bytes (311 MB at V = 151936), 2 C V more in the backward pass. Logits are fp32 even for bf16
operands: the error of a log-probability is 0.003 nats with bf16 hidden states, and would be 0.02 with bf16 logits.

Differentiable in `hidden` through `logprob` and `entropy` (not through the other fields, never in the weight). The
backward pass recomputes the logits of a chunk, so nothing of size V is kept between the passes:
    dlogits = (g_logprob * (onehot - p) - g_entropy * p * (log p + H)) / T
    dhidden = scale * (dlogits * softcap') @ weight
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from strop.kernels.dispatch import use_triton
from strop.kernels.head import Head
from strop.kernels.row_stats import MASKED, RowStats, inverse_temperature, row_stats

CHUNK = 512


def score_hidden(
    hidden: Tensor, head: Head, targets: Tensor, *, temperature: Tensor | None = None, topk: int = 0, chunk: int = CHUNK
) -> RowStats:
    """`row_stats` of the logits of every hidden state.

    Args:
        hidden: [T, d], the input of the head (after the final norm).
        head: weight [V, d], scale and soft-cap.
        targets: [T] int64 ids whose log-probability is wanted; out of range (-100) gives NaN and no gradient.
        temperature: [T] fp32, as in `row_stats`.
        topk: 0 to 20.
        chunk: rows of logits held at a time.

    Raises:
        ValueError: shapes that do not fit.
    """
    if hidden.dim() != 2 or hidden.shape[1] != head.weight.shape[1] or targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(head.weight.shape)}, targets {tuple(targets.shape)}"
        )
    if chunk < 1:
        raise ValueError(f"chunk is at least 1, got {chunk}")
    if not (torch.is_grad_enabled() and hidden.requires_grad):
        return _forward(hidden.detach(), head, targets, temperature, topk, chunk)
    apply: Callable[..., tuple[Tensor, ...]] = _Score.apply
    return RowStats(*apply(hidden, head, targets, temperature, topk, chunk))


def _forward(
    hidden_Td: Tensor, head: Head, targets_T: Tensor, temperature_T: Tensor | None, topk: int, chunk: int
) -> RowStats:
    parts = []
    for at in range(0, max(hidden_Td.shape[0], 1), chunk):
        here = slice(at, at + chunk)
        t = None if temperature_T is None else temperature_T[here]
        parts.append(row_stats(head.logits(hidden_Td[here]), targets_T[here], t, topk))
    return parts[0] if len(parts) == 1 else RowStats(*(torch.cat(field) for field in zip(*parts, strict=True)))


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Head, targets: Tensor, temperature: Tensor | None, topk: int, chunk: int
    ) -> tuple[Tensor, ...]:
        stats = _forward(hidden, head, targets, temperature, topk, chunk)
        ctx.save_for_backward(hidden, targets, temperature, stats.max_logit, stats.log_z, stats.entropy)
        ctx.head, ctx.chunk = head, chunk
        ctx.mark_non_differentiable(
            *(field for name, field in stats._asdict().items() if name not in ("logprob", "entropy"))
        )
        ctx.set_materialize_grads(False)
        return tuple(stats)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, targets, temperature, peak, log_z, entropy = ctx.saved_tensors
        named = dict(zip(RowStats._fields, grads, strict=True))
        zeros = torch.zeros_like(log_z)
        g_logprob, g_entropy = (
            zeros if grad is None else grad.float().contiguous() for grad in (named["logprob"], named["entropy"])
        )
        out = torch.empty_like(hidden)
        for at in range(0, hidden.shape[0], ctx.chunk):
            here = slice(at, at + ctx.chunk)
            t = None if temperature is None else temperature[here]
            row = (targets[here], t, peak[here], log_z[here], entropy[here], g_logprob[here], g_entropy[here])
            out[here] = _backward_chunk(hidden[here], ctx.head, *row)
        return out, None, None, None, None, None


def _backward_chunk(
    hidden_Cd: Tensor, head: Head, targets_C: Tensor, temperature_C: Tensor | None, peak_C: Tensor, log_z_C: Tensor,
    entropy_C: Tensor, g_logprob_C: Tensor, g_entropy_C: Tensor,
) -> Tensor:  # fmt: skip
    logits_CV = head.logits(hidden_Cd)
    dtype = head.weight.dtype if logits_CV.is_cuda and head.softcap is None else torch.float32
    row = (targets_C, temperature_C, peak_C, log_z_C, entropy_C, g_logprob_C, g_entropy_C)
    grad_CV = logit_gradient(logits_CV, *row, dtype=dtype)
    if head.softcap is not None:
        grad_CV = grad_CV * (1 - (logits_CV / head.softcap).square())
    return head.pull_back(grad_CV, head.weight.dtype if logits_CV.is_cuda else torch.float32)


def logit_gradient(
    logits_BV: Tensor, targets_B: Tensor, temperature_B: Tensor | None, peak_B: Tensor, log_z_B: Tensor, entropy_B:
    Tensor,
    g_logprob_B: Tensor, g_entropy_B: Tensor, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """[B, V] gradient of sum(g_logprob * logprob + g_entropy * entropy) in the logits; rows without support get
    zeros."""
    row = (targets_B, temperature_B, peak_B, log_z_B, entropy_B, g_logprob_B, g_entropy_B)
    if not use_triton("logit_grad", logits_BV):
        return logit_gradient_reference(logits_BV, *row).to(dtype)
    from strop.kernels import triton_logit_grad

    out_BV = torch.empty(logits_BV.shape, dtype=dtype, device=logits_BV.device)
    if temperature_B is not None:
        temperature_B = temperature_B.contiguous()
    triton_logit_grad.launch(
        logits_BV, targets_B.contiguous(), temperature_B, peak_B, log_z_B, entropy_B, g_logprob_B, g_entropy_B, out_BV
    )
    return out_BV


def logit_gradient_reference(
    logits_BV: Tensor, targets_B: Tensor, temperature_B: Tensor | None, peak_B: Tensor, log_z_B: Tensor, entropy_B:
    Tensor,
    g_logprob_B: Tensor, g_entropy_B: Tensor,
) -> Tensor:  # fmt: skip
    """`logit_gradient` in plain torch, fp32."""
    x_BV = logits_BV.float()
    inverse_B = inverse_temperature(temperature_B, log_z_B)
    logp_BV = (x_BV - peak_B[:, None]) * inverse_B[:, None] - log_z_B[:, None]
    p_BV = logp_BV.exp()
    inside_B = (targets_B >= 0) & (targets_B < x_BV.shape[1])
    g_B = torch.where(inside_B, g_logprob_B, 0.0)
    slope_BV = torch.where(x_BV > MASKED, p_BV * (logp_BV + entropy_B[:, None]), 0.0)
    onehot_BV = torch.zeros_like(x_BV).scatter_(1, torch.where(inside_B, targets_B, 0)[:, None], 1.0)
    grad_BV = (g_B[:, None] * (onehot_BV - p_BV) - g_entropy_B[:, None] * slope_BV) * inverse_B[:, None]
    return torch.where(peak_B[:, None] > MASKED, grad_BV, 0.0)
