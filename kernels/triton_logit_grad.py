"""Triton kernel behind the backward pass of `score_hidden`: from logits to their gradient in one read and one write.

Legend: B rows, V vocabulary. Grid (B, cdiv(V, BLOCK)).
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 4096
WARPS = 8


@triton.jit
def logit_grad(logits, out, targets, temperature, peak, log_z, entropy, grad_logprob, grad_entropy, V, stride,
out_stride,
               HAS_T: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """out = inv_T * (g_logprob * (onehot - p) - g_entropy * p * (log p + H)); the true class is computed in fp32 as 1
    - p."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < V
    inverse = 1.0
    if HAS_T:
        t = tl.load(temperature + row).to(tl.float32)
        inverse = 1.0 / tl.where(t > 0, tl.maximum(t, 1e-6), 1.0)
    x = tl.load(logits + row * stride + cols, mask=inside, other=float("-inf")).to(tl.float32)
    logp = (x - tl.load(peak + row)) * inverse - tl.load(log_z + row)
    y = tl.load(targets + row)
    p = tl.exp(logp)
    g = tl.where((y >= 0) & (y < V), tl.load(grad_logprob + row), 0.0)
    slope = tl.where(x > -1e30, p * (logp + tl.load(entropy + row)), 0.0)
    grad = (g * (tl.where(cols == y, 1.0, 0.0) - p) - tl.load(grad_entropy + row) * slope) * inverse
    empty = tl.load(peak + row) == float("-inf")
    grad = tl.where(empty, 0.0, grad)
    tl.store(out + row * out_stride + cols, grad.to(out.dtype.element_ty), mask=inside)


def launch(
    logits: torch.Tensor,
    targets: torch.Tensor,
    temperature: torch.Tensor | None,
    peak: torch.Tensor,
    log_z: torch.Tensor,
    entropy: torch.Tensor,
    grad_logprob: torch.Tensor,
    grad_entropy: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Write the gradient of sum(g_logprob * logprob + g_entropy * entropy) into out [B, V]."""
    n_rows, vocab = logits.shape
    logit_grad[(n_rows, triton.cdiv(vocab, BLOCK))](
        logits, out, targets, log_z if temperature is None else temperature, peak, log_z, entropy, grad_logprob,
        grad_entropy,
        vocab, logits.stride(0), out.stride(0), HAS_T=temperature is not None, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
