"""The language-model head as the kernels see it: logits = softcap(scale * hidden @ weight^T).

Legend: T tokens, V vocabulary, d hidden size. Gemma-2: softcap 30. Granite: scale 1 / logits_scaling. Cohere: scale
logit_scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SLICE_ROWS = 8192  # rows of the weight that the CPU path upcasts at a time


@dataclass(frozen=True)
class Head:
    """weight [V, d] (any float type, contiguous), a factor on the logits, and a cap c: x -> c * tanh(x / c)."""

    weight: Tensor
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.weight.dim() != 2 or not self.weight.is_contiguous():
            raise ValueError(f"the head's weight is contiguous [V, d], got {tuple(self.weight.shape)}")
        if self.softcap is not None and self.softcap <= 0:
            raise ValueError(f"softcap is positive, got {self.softcap}")

    def linear(self, hidden_Td: Tensor) -> Tensor:
        """[T, V] fp32: scale * hidden @ weight^T, before the cap. Products are accumulated and returned in fp32."""
        return (
            product(hidden_Td, self.weight).mul_(self.scale) if self.scale != 1.0 else product(hidden_Td, self.weight)
        )

    def logits(self, hidden_Td: Tensor) -> Tensor:
        """[T, V] fp32 logits of the model. Not differentiable (in place); `score_hidden` is."""
        return self.cap(self.linear(hidden_Td))

    def cap(self, linear_TV: Tensor) -> Tensor:
        """The cap, in place; the argument itself when there is none."""
        return linear_TV if self.softcap is None else linear_TV.div_(self.softcap).tanh_().mul_(self.softcap)

    def pull_back(self, gradient_TV: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """[T, d] fp32: scale * gradient @ weight, the gradient of `linear`'s input; operands in `dtype` (default
        fp32)."""
        return pulled(gradient_TV, self.weight, dtype or torch.float32).mul_(self.scale)


def product(hidden_Td: Tensor, weight_Vd: Tensor) -> Tensor:
    """hidden @ weight^T in fp32: one cuBLAS call with fp32 output, or fp32 slices of the weight on other devices."""
    if weight_Vd.dtype == torch.float32:
        return hidden_Td.float() @ weight_Vd.T
    if weight_Vd.is_cuda:
        return torch.mm(hidden_Td.to(weight_Vd.dtype), weight_Vd.T, out_dtype=torch.float32)
    out_TV = hidden_Td.new_empty((hidden_Td.shape[0], weight_Vd.shape[0]), dtype=torch.float32)
    hidden_Td = hidden_Td.float()
    for at in range(0, weight_Vd.shape[0], SLICE_ROWS):
        torch.mm(hidden_Td, weight_Vd[at : at + SLICE_ROWS].float().T, out=out_TV[:, at : at + SLICE_ROWS])
    return out_TV


def pulled(gradient_TV: Tensor, weight_Vd: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient @ weight in fp32, with operands in `dtype`; a 16-bit CUDA product accumulates and returns fp32."""
    if weight_Vd.is_cuda and weight_Vd.dtype == dtype and dtype != torch.float32:
        return torch.mm(gradient_TV.to(dtype), weight_Vd, out_dtype=torch.float32)
    out_Td = gradient_TV.new_zeros((gradient_TV.shape[0], weight_Vd.shape[1]), dtype=torch.float32)
    for at in range(0, weight_Vd.shape[0], SLICE_ROWS):
        here = slice(at, at + SLICE_ROWS)
        out_Td.addmm_(gradient_TV[:, here].float(), weight_Vd[here].float())
    return out_Td
