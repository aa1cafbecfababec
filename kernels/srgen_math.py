"""The corrective fit's algebra in plain torch, fp32; formulas in `srgen_fit`.

Legend: F fitted rows, n prefix positions, V vocabulary, d hidden size, L sparse tokens, K entries per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from strop.kernels.head import Head
from strop.kernels.row_stats import rows_per_slice
from strop.kernels.srgen_state import SlotState
from strop.kernels.sum_softmax import sum_softmax

BETA1: Final = 0.9
BETA2: Final = 0.999
EPSILON: Final = 1e-5
DECAY: Final = 1e-8
LARGEST_SHIFT: Final = 60.0


@dataclass(frozen=True)
class Adam:
    """torch.optim.AdamW from zero for F vectors at once: delta, mean and square are [F, d] and updated in place."""

    delta: Tensor
    mean: Tensor
    square: Tensor

    @staticmethod
    def start(rows: int, size: int, device: torch.device) -> Adam:
        """Zero vectors and moments."""
        return Adam(*(torch.zeros(rows, size, device=device) for _ in range(3)))

    def step(self, gradient_Fd: Tensor, step: int, lr_F: Tensor, steps_F: Tensor) -> None:
        """One step, counted from 0; rows whose number of steps is reached stay."""
        self.mean.mul_(BETA1).add_(gradient_Fd, alpha=1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient_Fd, gradient_Fd, value=1 - BETA2)
        root_Fd = (self.square / (1 - BETA2 ** (step + 1))).sqrt_().add_(EPSILON)
        move_Fd = self.mean / (1 - BETA1 ** (step + 1)) / root_Fd
        moved_Fd = self.delta * (1 - lr_F[:, None] * DECAY) - lr_F[:, None] * move_Fd
        self.delta.copy_(torch.where(step < steps_F[:, None], moved_Fd, self.delta))


def shifted(z: Tensor, u: Tensor | None, softcap: float | None) -> Tensor:
    """Logits after a shift of what the cap is applied to; tanh(a + b) = (tanh a + tanh b) / (1 + tanh a tanh b)."""
    if u is None:
        return z
    if softcap is None:
        return z + u
    a, b = z / softcap, torch.tanh(u / softcap)
    return softcap * (a + b) / (1 + a * b)


def slope(z: Tensor, softcap: float | None) -> Tensor | float:
    """Derivative of the capped logits in what the cap is applied to."""
    return 1.0 if softcap is None else 1 - (z / softcap).square()


def entropy_gradient(z_FV: Tensor, t_F: Tensor) -> Tensor:
    """[F, V] gradient of H(softmax(z / T)) in z: -q (log q + H) / T."""
    log_q_FV = torch.log_softmax(z_FV / t_F[:, None], dim=1)
    q_FV = log_q_FV.exp()
    log_q_FV = log_q_FV.clamp(min=-200.0)
    h_F = -(q_FV * log_q_FV).sum(dim=1)
    return -q_FV * (log_q_FV + h_F[:, None]) / t_F[:, None]


def prefix_gradient(
    labels_n: Tensor, logits_nV: Tensor | None, hidden_nd: Tensor | None, head: Head, u_V: Tensor | None
) -> Tensor:
    """[V] gradient in u of the mean cross-entropy of the labels; zero when no label counts."""
    vocab = head.weight.shape[0]
    total_V = torch.zeros(vocab, device=labels_n.device)
    counted_n = (labels_n >= 0) & (labels_n < vocab)
    rows_n = counted_n.nonzero()[:, 0]
    step = max(rows_per_slice(vocab, labels_n.device), 64)
    for at in range(0, rows_n.shape[0], step):
        here = rows_n[at : at + step]
        z_nV = head.logits(hidden_nd[here]) if hidden_nd is not None else _rows(logits_nV, here)
        total_V += _slice_gradient(z_nV, labels_n[here], u_V, head.softcap)
    return total_V / max(rows_n.shape[0], 1)


def _rows(logits_nV: Tensor | None, rows: Tensor) -> Tensor:
    if logits_nV is None:
        raise ValueError("a prefix has logits or hidden states")
    return logits_nV[rows]


def _slice_gradient(z_nV: Tensor, labels_n: Tensor, u_V: Tensor | None, softcap: float | None) -> Tensor:
    one_n = torch.ones(labels_n.shape[0], device=z_nV.device)
    if softcap is None:
        return sum_softmax(z_nV, u_V).index_put_((labels_n,), -one_n, accumulate=True)
    z_nV = shifted(z_nV.float(), u_V, softcap)
    p_nV = torch.softmax(z_nV, dim=1)
    p_nV[torch.arange(labels_n.shape[0], device=z_nV.device), labels_n] -= 1.0
    return (p_nV * slope(z_nV, softcap)).sum(dim=0)


def state_mean(state: SlotState, slot_F: Tensor, u_FV: Tensor) -> Tensor:
    """[F, V] the state form's mean softmax at shift u; zero for a slot without positions."""
    lift_FV = u_FV.clamp(max=LARGEST_SHIFT).exp()
    tail_FV = state.tail[slot_F] * lift_FV
    n_F = state.positions[slot_F].float()
    tail_mean_F = _ratio(tail_FV.sum(dim=1), state.tail[slot_F].sum(dim=1), 1.0)
    if state.sparse == 0:
        return tail_FV * _ratio(1.0 / n_F, tail_mean_F, 0.0)[:, None]
    length = int(state.positions[slot_F].max().clamp(max=state.tail_mass.shape[1]))
    at_L = torch.arange(length, device=u_FV.device)
    kept_FL = at_L < n_F[:, None]
    ids_FLK = torch.where(kept_FL[..., None], state.ids[slot_F, :length], 0).long()
    p_FLK = torch.where(kept_FL[..., None], state.probs[slot_F, :length], 0.0)
    mass_FL = torch.where(kept_FL, state.tail_mass[slot_F, :length], 0.0)
    flat_Fx = ids_FLK.flatten(1)
    p_FLK = p_FLK * lift_FV.gather(1, flat_Fx).view_as(p_FLK)
    inverse_FL = torch.where(kept_FL, 1.0 / (p_FLK.sum(dim=2) + mass_FL * tail_mean_F[:, None]), 0.0)
    beyond_F = (n_F - kept_FL.sum(dim=1)).clamp(min=0.0)
    weight_F = _ratio((mass_FL * inverse_FL).sum(dim=1) + beyond_F / tail_mean_F, mass_FL.sum(dim=1) + beyond_F, 0.0)
    total_FV = tail_FV * weight_F[:, None]
    total_FV.scatter_add_(1, flat_Fx, (p_FLK * inverse_FL[..., None]).flatten(1))
    return total_FV / n_F.clamp(min=1.0)[:, None]


def _ratio(above: Tensor, below: Tensor, otherwise: float) -> Tensor:
    return torch.where(below > 0, above / below, otherwise)
