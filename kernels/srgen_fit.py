"""SRGen's corrective vector for flagged rows (arXiv 2510.02919): a shift delta of the head's input, fitted on the row's
own prefix.

Legend: B rows of the step, C capacity of the flagged list, F flagged rows, n prefix positions, V vocabulary, d
hidden size. delta [d] is one vector shared by all positions, so W (h_i + delta) = z_i + u with u = scale * W delta
in R^V, and for a linear head
    loss  = (1 - l) * mean_i CE(softmax(z_i + u), label_i) + l * H(q),        q = softmax((z_last + u) / T)
    g_V   = (1 - l) * (mean_i softmax(z_i + u) - label histogram) - l * q * (log q + H) / T
    delta = AdamW(scale * W^T g_V), from zero: betas .9 and .999, eps 1e-5, weight decay 1e-8, `steps` steps
With a soft-cap c, z + u means c * tanh((linear + u) / c) and both terms of g_V are multiplied by its slope (exact
form only).

Three forms of mean_i softmax(z_i + u), one interface:
    exact     `Prefix` per flagged row: cached logits, or hidden states recomputed at every step; O(n V) a step
    state     `SlotState` with K > 0: O(V + L K) per step whatever the length, all flagged rows share the two reads of W
    one-step  `SlotState` with K = 0: the mean softmax alone, exact for steps = 1 and refused beyond
State form, with m the mean of e^u over the tail: Z_i = sum_K p e^u + tail_mass_i m, and
    mean softmax = (sum_i sparse_i e^u / Z_i + tail e^u * mean(tail_mass / Z)) / n.

Numerics: fp32 (a bf16 delta has cosine 0.98 to it); e^u is clamped at e^60. Bytes moved by the state form, per step
and 16 rows: 2 V d itemsize; all of its launches are predicated on the device counter, so nothing of size V is read
when no row is flagged. The exact form and the torch path read the number of flagged rows on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from strop.kernels import srgen_math
from strop.kernels.dispatch import use_triton
from strop.kernels.entropy_gate import Flagged
from strop.kernels.head import Head
from strop.kernels.srgen_state import FitKnobs, SlotState


@dataclass(frozen=True)
class Prefix:
    """One flagged row's past: labels [n] int64 (out of range: left out) and either logits [n, V] or hidden [n, d];
    label i followed row i."""

    labels: Tensor
    logits: Tensor | None = None
    hidden: Tensor | None = None

    def __post_init__(self) -> None:
        source = self.hidden if self.logits is None else self.logits
        if (self.logits is None) == (self.hidden is None) or source is None or source.shape[:1] != self.labels.shape:
            raise ValueError("a prefix has labels [n] and either logits [n, V] or hidden [n, d]")


def srgen_fit(
    logits: Tensor,
    flagged: Flagged,
    head: Head,
    past: SlotState | Sequence[tuple[Prefix, FitKnobs]],
    *,
    slots: Tensor | None = None,
    max_steps: int = 3,
    workspace: FitWorkspace | None = None,
) -> Tensor:
    """[C, d] fp32 corrective vectors, row j for the batch row flagged.rows[j]; zero beyond the flagged ones.

    Args:
        logits: [B, V] fp32, this step's logits: the last position, which has no label yet and is not part of the past.
        flagged: the gate's result.
        head: the head that made the logits.
        past: the state of every slot, or one (Prefix, FitKnobs) per flagged row in order.
        slots: [B] int64 slot of every row; with a state only.
        max_steps: steps launched; a request with fewer takes fewer. With a state only.
        workspace: reused by the Triton path of the state form; allocated per call if not given.

    Raises:
        ValueError: shapes that do not fit; a state with a soft-capped head; several steps without sparse entries.
    """
    if isinstance(past, SlotState):
        if slots is None or slots.shape != logits.shape[:1]:
            raise ValueError("the state form needs slots [B]")
        if head.softcap is not None:
            raise ValueError("the state form needs a head without soft-cap: use the exact form")
        if past.sparse == 0 and max_steps > 1:
            raise ValueError("a state without sparse entries is exact for one step only")
        if use_triton("srgen_fit", logits):
            return triton_fit(logits, flagged, head, past, slots, max_steps, workspace)
        return state_reference(logits, flagged, head, past, slots, max_steps)
    count = int(flagged.count)
    if len(past) != count:
        raise ValueError(f"{count} rows are flagged, {len(past)} prefixes given")
    delta_Cd = head.weight.new_zeros((flagged.rows.shape[0], head.weight.shape[1]), dtype=torch.float32)
    for j, (prefix, knobs) in enumerate(past):
        delta_Cd[j] = fit_prefix(prefix, head, knobs, logits[int(flagged.rows[j])])
    return delta_Cd


def fit_prefix(prefix: Prefix, head: Head, knobs: FitKnobs, last: Tensor | None) -> Tensor:
    """[d] fp32: the exact form for one row; `last` [V] is the position to correct, None for the prefix term alone
    (SLOT)."""
    adam = srgen_math.Adam.start(1, head.weight.shape[1], head.weight.device)
    lr, steps = (torch.full((1,), value, device=head.weight.device) for value in (knobs.lr, float(knobs.steps)))
    weight = 0.0 if last is None else knobs.entropy_weight
    linear = head if prefix.hidden is None else Head(head.weight, head.scale)
    for step in range(knobs.steps):
        u_V = linear.linear(adam.delta)[0] if step else None
        g_V = (1 - weight) * srgen_math.prefix_gradient(prefix.labels, prefix.logits, prefix.hidden, head, u_V)
        if last is not None:
            t = last.new_full((1,), knobs.temperature if knobs.temperature > 0 else 1.0, dtype=torch.float32)
            z_V = srgen_math.shifted(last.float()[None], u_V, head.softcap)
            g_V = g_V + weight * (srgen_math.entropy_gradient(z_V, t) * srgen_math.slope(z_V, head.softcap))[0]
        adam.step(head.pull_back(g_V[None]), step, lr, steps)
    return adam.delta[0]


def srgen_apply(logits: Tensor, flagged: Flagged, head: Head, delta: Tensor) -> Tensor:
    """logits[rows[j]] += scale * W delta[j], in place, for the flagged rows only; returns `logits` [B, V] fp32.

    With a soft-cap the sum is taken before the cap. Predicated on the device counter in the Triton path.
    """
    if head.softcap is None and use_triton("srgen_apply", logits):
        from strop.kernels import triton_skinny

        triton_skinny.push(head.weight, delta, head.scale, flagged.count, logits, rows=flagged.rows)
        return logits
    rows_F = flagged.rows[: int(flagged.count)].long()
    if rows_F.shape[0]:
        logits[rows_F] = srgen_math.shifted(logits[rows_F], head.linear(delta[: rows_F.shape[0]]), head.softcap)
    return logits


def state_reference(
    logits: Tensor, flagged: Flagged, head: Head, state: SlotState, slots: Tensor, max_steps: int
) -> Tensor:
    """The state form in plain torch, fp32."""
    rows_F = flagged.rows[: int(flagged.count)].long()
    delta_Cd = head.weight.new_zeros((flagged.rows.shape[0], head.weight.shape[1]), dtype=torch.float32)
    if rows_F.shape[0] == 0:
        return delta_Cd
    slot_F = slots[rows_F].long()
    steps_F, lr_F, weight_F, t_F = state.knobs[slot_F].unbind(1)
    adam = srgen_math.Adam.start(rows_F.shape[0], head.weight.shape[1], head.weight.device)
    for step in range(max_steps):
        u_FV = head.linear(adam.delta)
        past_FV = srgen_math.state_mean(state, slot_F, u_FV)
        past_FV -= state.labels[slot_F] / state.labelled[slot_F].clamp(min=1)[:, None]
        last_FV = srgen_math.entropy_gradient(logits[rows_F].float() + u_FV, t_F)
        g_FV = (1 - weight_F)[:, None] * past_FV + weight_F[:, None] * last_FV
        adam.step(head.pull_back(g_FV), step, lr_F, steps_F)
    delta_Cd[: rows_F.shape[0]] = adam.delta
    return delta_Cd


@dataclass(frozen=True)
class FitWorkspace:
    """Scratch of the state form's Triton path: shifts and gradients [C, V], a fixed-point sum that is zero between
    calls, Adam's moments."""

    shift: Tensor
    gradient: Tensor
    sparse: Tensor
    sums: Tensor
    weights: Tensor
    pulled: Tensor
    delta: Tensor
    moments: Tensor

    @staticmethod
    def allocate(state: SlotState, capacity: int, hidden: int) -> FitWorkspace:
        """For `capacity` flagged rows and a head of `hidden` columns."""
        from strop.kernels import triton_srgen_fit as kernels

        vocab, device = state.tail.shape[1], state.tail.device
        blocks = max(-(-state.tail_mass.shape[1] // kernels.TOKENS), 1)

        def fp32(*shape: int) -> Tensor:
            return torch.empty(shape, device=device)

        return FitWorkspace(
            shift=fp32(capacity, vocab),
            gradient=fp32(capacity, vocab),
            sparse=torch.zeros(capacity, vocab, dtype=torch.int64, device=device),
            sums=fp32(5, capacity, kernels.SPLITS),
            weights=fp32(2, capacity, blocks),
            pulled=fp32(kernels.PULL_SPLITS, capacity, hidden),
            delta=fp32(capacity, hidden),
            moments=fp32(2, capacity, hidden),
        )


def triton_fit(
    logits: Tensor,
    flagged: Flagged,
    head: Head,
    state: SlotState,
    slots: Tensor,
    max_steps: int,
    workspace: FitWorkspace | None,
) -> Tensor:
    """The state form's Triton path, without dispatch."""
    from strop.kernels import triton_skinny
    from strop.kernels import triton_srgen_fit as kernels

    work = workspace or FitWorkspace.allocate(state, flagged.rows.shape[0], head.weight.shape[1])
    slots = slots.long().contiguous()
    work.delta.zero_()
    for step in range(max_steps):
        if step:
            triton_skinny.push(head.weight, work.delta, head.scale, flagged.count, work.shift)
        kernels.launch_gradient(logits, flagged, state, slots, work, has_shift=step > 0)
        triton_skinny.pull(head.weight, work.gradient, flagged.count, work.pulled)
        kernels.launch_adam(flagged, state, slots, work, head.scale, step)
    return work.delta
