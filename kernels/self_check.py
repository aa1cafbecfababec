"""Runs each op's Triton path against its torch reference on a small input, once per process and device, and reports.

`self_check()` at start-up compiles the kernels and tells the server what it got; in `auto` mode an op that fails its
check is served by torch from then on, with an error in the log. Without a usable device every op reports `torch` and
is healthy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strop.kernels import dispatch
from strop.kernels.confidence_gate import ConfidenceGate, Confidences, confidence_gate_reference
from strop.kernels.entropy_gate import EntropyGate, EntropyKnobs, Flagged, entropy_gate_reference
from strop.kernels.head import Head
from strop.kernels.row_stats import row_stats_reference, triton_row_stats
from strop.kernels.score_hidden import logit_gradient_reference
from strop.kernels.srgen_fit import state_reference, triton_fit
from strop.kernels.srgen_state import FitKnobs, SlotState, make_plan, observe_reference, srgen_label
from strop.kernels.sum_softmax import sum_softmax_reference, triton_sum_softmax

log = logging.getLogger(__name__)
TOLERANCE = 1e-4


class Health(NamedTuple):
    """How an op is served: path taken, whether that is the path wanted, largest |difference| / (1 + |reference|), and
    why."""

    path: str
    ok: bool
    error: float
    detail: str


def self_check(device: torch.device | str | None = None) -> dict[str, Health]:
    """Health of every op on `device` (default: the current CUDA device if there is one, else the CPU)."""
    if device is None:
        device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    probe = torch.empty(0, device=device)
    wanted = dispatch.mode() != "torch" and (dispatch.interpreted() or dispatch.supported(probe))
    if not wanted:
        return {op: Health("torch", True, 0.0, f"STROP_KERNELS={dispatch.mode()} on {device}") for op in CHECKS}
    return {op: check(op, str(probe.device)) for op in CHECKS}


@cache
def check(op: str, device: str) -> Health:
    """Run one op's check once per process; a failure is logged as an error and remembered."""
    try:
        error = CHECKS[op](device)
    except Exception as problem:  # boundary: a kernel that does not run must not stop the server
        log.exception("kernel %s does not run on %s: served by torch", op, device)
        return Health("torch", False, float("inf"), f"{type(problem).__name__}: {problem}")
    if not error <= TOLERANCE:
        log.error("kernel %s is wrong on %s (error %.3g): served by torch", op, device, error)
        return Health("torch", False, error, f"differs from the reference by {error:.3g}")
    log.info("kernel %s checked on %s: error %.3g", op, device, error)
    return Health("triton", True, error, "checked")


def difference(got: Iterable[Tensor], want: Iterable[Tensor]) -> float:
    """Largest |got - want| / (1 + |want|) over pairs of tensors; infinite if NaNs or infinities differ."""
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        a, b = a.double(), b.double()
        same = (a == b) | (a.isnan() & b.isnan())
        gap = torch.where(same, 0.0, (a - b).abs() / (1 + b.abs()))
        worst = max(worst, float(torch.where(gap.isnan(), torch.inf, gap).max()) if gap.numel() else 0.0)
    return worst


def _random(device: str, *shape: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return (torch.randn(shape, generator=generator) * scale).to(device)


def _check_row_stats(device: str) -> float:
    worst = 0.0
    for dtype in (torch.float32, torch.bfloat16):
        logits = _random(device, 3, 5000).to(dtype)
        logits[1, 100:900] = -torch.inf
        targets = torch.tensor([5, 4999, -100], device=device)
        temperature = torch.tensor([0.6, 0.0, 2.0], device=device)
        for t, topk in ((temperature, 20), (None, 0)):
            got = triton_row_stats(logits, targets, t, topk, None)
            worst = max(worst, difference(got, row_stats_reference(logits, targets, t, topk)))
    return worst


def _check_logit_grad(device: str) -> float:
    from strop.kernels import triton_logit_grad

    logits, targets = _random(device, 3, 5000), torch.tensor([5, 4999, -100], device=device)
    stats = row_stats_reference(logits, targets)
    ones, t = torch.ones(3, device=device), torch.tensor([0.6, 1.0, 2.0], device=device)
    out = torch.empty_like(logits)
    args = (logits, targets, t, stats.max_logit, stats.log_z, stats.entropy, ones, ones * 0.5)
    triton_logit_grad.launch(*args, out)
    return difference([out], [logit_gradient_reference(*args)])


def _check_entropy_gate(device: str) -> float:
    from strop.kernels import triton_gates

    def run(step: Callable[[Tensor, Tensor, Any, Any], Any]) -> list[Tensor]:
        results: list[Tensor] = []
        gate = EntropyGate.allocate(4, device)
        for slot in range(4):
            gate.open(slot, EntropyKnobs(window=3, k=0.5, min_std=0.1, min_threshold=0.1, max_activations=3))
        slots = torch.tensor([2, -1, 0, 3, 1], dtype=torch.int32, device=device)
        for entropies in _random(device, 12, 5).abs():
            out = Flagged.allocate(5, 2, device)
            step(entropies.contiguous(), slots, gate, out)
            results += [out.rows, out.count, out.dropped, out.threshold]
        return [*results, gate.ring, gate.seen, gate.fired]

    return difference(run(triton_gates.launch_entropy), run(entropy_gate_reference))


def _check_confidence_gate(device: str) -> float:
    from strop.kernels import triton_gates

    def launch(values: Tensor, slots: Tensor, gate: ConfidenceGate) -> Confidences:
        out = Confidences(torch.empty_like(slots, dtype=torch.bool), torch.empty_like(values))
        triton_gates.launch_confidence(values, slots, gate, *out)
        return out

    def run(step: Callable[..., Confidences]) -> list[Tensor]:
        results: list[Tensor] = []
        gate = ConfidenceGate.allocate(4, device, max_window=8)
        for slot in range(4):
            gate.open(slot, window=5, threshold=2.0)
        slots = torch.tensor([2, -1, 0, 3, 1], dtype=torch.int32, device=device)
        for values in _random(device, 12, 5).abs():
            results += step(values.contiguous(), slots, gate)
        return [*results, gate.ring, gate.seen, gate.lowest]

    return difference(run(launch), run(confidence_gate_reference))


def _state(device: str, triton: bool, dtype: torch.dtype = torch.float32) -> tuple[SlotState, Tensor]:
    from strop.kernels import triton_srgen_state

    logits = _random(device, 6, 1500).to(dtype)
    stats, state = row_stats_reference(logits, topk=4), SlotState.allocate(2, 1500, device, sparse=4, max_tokens=3)
    slots, offsets = torch.tensor([1, 0], device=device), torch.tensor([0, 4, 6], device=device)
    for slot in range(2):
        state.open(slot, FitKnobs(steps=2 - slot, temperature=0.7))
    plan = make_plan(state, slots, stats.valid, None, offsets)
    if triton:
        triton_srgen_state.launch_observe(state, slots, logits, stats, plan, offsets)
    else:
        observe_reference(state, logits, stats, plan)
    state.positions.index_add_(0, plan.slot, plan.counted.int())
    srgen_label(state, slots, torch.tensor([3, 900], device=device))
    return state, logits


def _check_srgen_observe(device: str) -> float:
    (got, _), (want, _) = _state(device, True), _state(device, False)
    return max(
        difference([getattr(got, name)[:2]], [getattr(want, name)[:2]])
        for name in ("ids", "probs", "tail_mass", "tail")
    )


def _check_srgen_fit(device: str) -> float:
    from strop.kernels import triton_skinny

    state, logits = _state(device, False)
    head = Head(_random(device, 1500, 64, scale=0.3).to(torch.bfloat16), scale=0.5)
    rows, count = (
        torch.tensor([1, 3, -1], dtype=torch.int32, device=device),
        torch.tensor([2], dtype=torch.int32, device=device),
    )
    flagged = Flagged(rows, count, count, count)
    args = (logits[:4], flagged, head, state, torch.tensor([-1, 1, -1, 0], device=device), 2)
    got, want = triton_fit(*args, None), state_reference(*args)
    pushed, added = logits[:4].clone(), logits[:4].clone()
    triton_skinny.push(head.weight, want, head.scale, count, pushed, rows=rows)
    added[rows[:2].long()] += head.linear(want[:2])
    return difference([got, pushed], [want, added])


def _check_sum_softmax(device: str) -> float:
    logits, bias = _random(device, 9, 1500), _random(device, 1500, scale=1.0)
    got = triton_sum_softmax(logits, bias, row_stats_reference(logits, bias=bias))
    return difference([got], [sum_softmax_reference(logits, bias)])


CHECKS: dict[str, Callable[[str], float]] = {
    "row_stats": _check_row_stats,
    "logit_grad": _check_logit_grad,
    "entropy_gate": _check_entropy_gate,
    "confidence_gate": _check_confidence_gate,
    "srgen_observe": _check_srgen_observe,
    "srgen_fit": _check_srgen_fit,
    "srgen_apply": _check_srgen_fit,
    "sum_softmax": _check_sum_softmax,
}
