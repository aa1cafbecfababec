"""The corrective fits against torch autograd with torch.optim.AdamW, and the running state they are built on."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from strop.kernels import (
    FitKnobs,
    FitWorkspace,
    Flagged,
    Head,
    Prefix,
    SlotState,
    row_stats,
    slot_fit,
    srgen_apply,
    srgen_fit,
    srgen_label,
    srgen_observe,
    sum_softmax,
)
from strop.kernels.srgen_fit import triton_fit

D, V, N = 64, 500, 14
KNOBS = FitKnobs(steps=3, lr=0.01, entropy_weight=0.05, temperature=0.6)


def flags(*rows: int, capacity: int = 3) -> Flagged:
    """A gate's result that flags these rows."""
    padded = torch.tensor([*rows, *[-1] * (capacity - len(rows))], dtype=torch.int32)
    return Flagged(padded, torch.tensor([len(rows)], dtype=torch.int32), torch.zeros(1), torch.zeros(1))


def model_logits(hidden: Tensor, head: Head) -> Tensor:
    """What a model computes, differentiably."""
    z = hidden @ head.weight.T * head.scale
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def autograd_fit(hidden: Tensor, labels: Tensor, last: Tensor | None, head: Head, knobs: FitKnobs) -> Tensor:
    """The method as published: a shift of every hidden state, autograd through the head, torch's AdamW."""
    delta = torch.zeros(hidden.shape[1], requires_grad=True)
    optimiser = torch.optim.AdamW([delta], lr=knobs.lr, weight_decay=1e-8, eps=1e-5)
    for _ in range(knobs.steps):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model_logits(hidden + delta, head), labels, ignore_index=-100)
        if last is not None:
            logq = torch.log_softmax(model_logits(last + delta, head) / knobs.temperature, 0)
            loss = (1 - knobs.entropy_weight) * loss - knobs.entropy_weight * (logq.exp() * logq).sum()
        loss.backward()
        optimiser.step()
    return delta.detach()


def divergence(logits: Tensor, head: Head, wanted: Tensor, got: Tensor) -> float:
    """KL(distribution corrected by `wanted` || by `got`) at one position."""
    p, q = (torch.log_softmax(logits.double() + head.linear(delta[None])[0], 0) for delta in (wanted, got))
    return float((p.exp() * (p - q)).sum())


@pytest.fixture
def scene() -> SimpleNamespace:
    """A head, a prefix with a masked label, and the hidden states of four rows to correct."""
    head = Head(torch.randn(V, D) * 0.3)
    labels = torch.randint(0, V, (N,))
    labels[3] = -100
    hidden, last = torch.randn(N, D), torch.randn(4, D)
    return SimpleNamespace(head=head, labels=labels, hidden=hidden, last=last, logits=head.logits(last))


def observed(scene: SimpleNamespace, sparse: int, knobs: FitKnobs, max_tokens: int = 64) -> SlotState:
    """A state whose slot 1 has seen the scene's prefix."""
    state = SlotState.allocate(3, V, "cpu", sparse=sparse, max_tokens=max_tokens)
    state.open(1, knobs)
    z = scene.head.logits(scene.hidden)
    where = {"labels": scene.labels, "offsets": torch.tensor([0, N])}
    srgen_observe(state, torch.tensor([1]), z, row_stats(z, topk=sparse), **where)
    return state


@pytest.mark.parametrize(
    ("scale", "softcap"), [(1.0, None), (0.5, None), (1.0, 4.0)], ids=["plain", "scale", "softcap"]
)
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "recomputed"])
def test_the_exact_form_equals_autograd_and_adamw(
    scene: SimpleNamespace, scale: float, softcap: float | None, cached: bool
) -> None:
    head = Head(scene.head.weight, scale, softcap)
    z = head.logits(scene.hidden)
    prefix = Prefix(scene.labels, logits=z) if cached else Prefix(scene.labels, hidden=scene.hidden)
    delta = srgen_fit(head.logits(scene.last), flags(2), head, [(prefix, KNOBS)])
    want = autograd_fit(scene.hidden, scene.labels, scene.last[2], head, KNOBS)
    torch.testing.assert_close(delta[0], want, rtol=0, atol=1e-5)
    assert want.abs().max() > 0.02
    assert (delta[1:] == 0).all()


def test_slot_equals_autograd_on_the_prompt_alone(scene: SimpleNamespace) -> None:
    fit = slot_fit(Prefix(scene.labels, hidden=scene.hidden), scene.head, steps=5, lr=0.1)
    want = autograd_fit(scene.hidden, scene.labels, None, scene.head, FitKnobs(steps=5, lr=0.1))
    torch.testing.assert_close(fit.delta, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(scene.logits + fit.bias, scene.head.logits(scene.last + want), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sparse", [0, 5], ids=["mean-softmax", "sparse"])
def test_one_step_from_the_state_is_exact(scene: SimpleNamespace, sparse: int) -> None:
    knobs = FitKnobs(steps=1, temperature=0.6)
    state = observed(scene, sparse, knobs)
    delta = srgen_fit(scene.logits, flags(2), scene.head, state, slots=torch.tensor([-1, 0, 1, -1]), max_steps=1)
    want = autograd_fit(scene.hidden, scene.labels, scene.last[2], scene.head, knobs)
    torch.testing.assert_close(delta[0], want, rtol=0, atol=1e-5)


def test_three_steps_from_the_state_are_close_to_exact(scene: SimpleNamespace) -> None:
    state = observed(scene, 20, KNOBS)
    delta = srgen_fit(scene.logits, flags(2), scene.head, state, slots=torch.tensor([-1, 0, 1, -1]))
    want = autograd_fit(scene.hidden, scene.labels, scene.last[2], scene.head, KNOBS)
    assert divergence(scene.logits[2], scene.head, want, delta[0]) < 1e-4
    assert divergence(scene.logits[2], scene.head, want, torch.zeros(D)) > 1e-3


def test_a_state_that_keeps_everything_sparse_is_exact_for_any_step(scene: SimpleNamespace) -> None:
    """With 20 of 20 tokens sparse nothing is left to the tail's mean."""
    head = Head(scene.head.weight[:20].clone())
    z, labels = head.logits(scene.hidden), scene.labels % 20
    state = SlotState.allocate(1, 20, "cpu", sparse=20, max_tokens=N)
    state.open(0, KNOBS)
    srgen_observe(state, torch.tensor([0]), z, row_stats(z, topk=20), labels=labels, offsets=torch.tensor([0, N]))
    delta = srgen_fit(head.logits(scene.last), flags(1), head, state, slots=torch.tensor([-1, 0, -1, -1]))
    torch.testing.assert_close(
        delta[0], autograd_fit(scene.hidden, labels, scene.last[1], head, KNOBS), rtol=0, atol=1e-5
    )


def test_a_state_fed_token_by_token_equals_one_fed_at_once(scene: SimpleNamespace) -> None:
    at_once = observed(scene, 5, KNOBS, max_tokens=10)
    steps = SlotState.allocate(3, V, "cpu", sparse=5, max_tokens=10)
    steps.open(1, KNOBS)
    z = scene.head.logits(scene.hidden)
    for i in range(N):
        if int(scene.labels[i]) < 0:
            continue
        rows = torch.stack([z[0], z[i]])
        srgen_observe(
            steps, torch.tensor([-1, 1]), rows, row_stats(rows, torch.tensor([0, 0]), torch.tensor([0.6, 2.0]), 5)
        )
        srgen_label(steps, torch.tensor([-1, 1]), torch.stack([scene.labels[0], scene.labels[i]]))
    assert int(steps.positions[1]) == int(steps.labelled[1]) == N - 1
    for name in ("ids", "probs", "tail_mass", "tail", "labels", "positions", "labelled"):
        torch.testing.assert_close(getattr(steps, name)[:3], getattr(at_once, name)[:3], rtol=1e-5, atol=1e-6)


def test_every_row_of_a_batch_gets_its_own_fit_and_its_own_knobs(scene: SimpleNamespace) -> None:
    state = SlotState.allocate(4, V, "cpu", sparse=5, max_tokens=16)
    z, slots = scene.head.logits(scene.hidden), torch.tensor([3, 0])
    state.open(3, KNOBS)
    state.open(0, FitKnobs(steps=1, lr=0.05, entropy_weight=0.5, temperature=1.0))
    where = {"labels": scene.labels, "offsets": torch.tensor([0, 6, N])}
    srgen_observe(state, slots, z, row_stats(z, topk=5), **where)
    both = srgen_fit(scene.logits, flags(0, 2), scene.head, state, slots=torch.tensor([0, -1, 3, 1]))
    alone = srgen_fit(scene.logits, flags(2), scene.head, state, slots=torch.tensor([0, -1, 3, 1]))
    torch.testing.assert_close(both[1], alone[0], rtol=0, atol=1e-6)
    knobs = FitKnobs(steps=1, lr=0.05, entropy_weight=0.5, temperature=1.0)
    want = autograd_fit(scene.hidden[6:], scene.labels[6:], scene.last[0], scene.head, knobs)
    torch.testing.assert_close(both[0], want, rtol=0, atol=1e-5)


def test_an_opened_slot_has_forgotten_its_previous_request(scene: SimpleNamespace) -> None:
    used = observed(scene, 5, KNOBS)
    used.open(1, KNOBS)
    z = scene.head.logits(scene.hidden[:4])
    fresh = SlotState.allocate(3, V, "cpu", sparse=5, max_tokens=64)
    fresh.open(1, KNOBS)
    results = []
    for state in (used, fresh):
        srgen_observe(state, torch.tensor([1]), z[:1], row_stats(z[:1], topk=5), labels=scene.labels[:1])
        results.append(srgen_fit(scene.logits, flags(2), scene.head, state, slots=torch.tensor([0, 0, 1, 0])))
    assert torch.equal(results[0], results[1])


def test_applying_adds_to_the_flagged_rows_and_to_no_other(scene: SimpleNamespace) -> None:
    delta, before = torch.randn(3, D) * 0.1, scene.logits.clone()
    after = srgen_apply(scene.logits, flags(3, 1), scene.head, delta)
    assert after is scene.logits
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    want = model_logits(scene.last[[3, 1]] + delta[:2], scene.head)
    torch.testing.assert_close(after[[3, 1]], want, rtol=1e-5, atol=1e-5)


def test_with_a_softcap_the_correction_is_added_before_the_cap(scene: SimpleNamespace) -> None:
    head, delta = Head(scene.head.weight, 1.0, 3.0), torch.randn(3, D) * 0.3
    after = srgen_apply(head.logits(scene.last), flags(2), head, delta)
    torch.testing.assert_close(after[2], model_logits(scene.last[2] + delta[0], head), rtol=1e-4, atol=1e-4)


def test_no_flagged_row_leaves_the_logits_bit_identical(scene: SimpleNamespace) -> None:
    state, before = observed(scene, 5, KNOBS), scene.logits.clone()
    delta = srgen_fit(scene.logits, flags(), scene.head, state, slots=torch.tensor([0, 1, -1, -1]))
    assert (delta == 0).all()
    assert torch.equal(srgen_apply(scene.logits, flags(), scene.head, delta), before)


def test_summed_softmax_equals_float64() -> None:
    z, bias = torch.randn(11, 1500) * 4, torch.randn(1500)
    want = torch.softmax(z.double() + bias, 1).sum(dim=0)
    torch.testing.assert_close(sum_softmax(z, bias), want.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        sum_softmax(z[:3]), torch.softmax(z[:3].double(), 1).sum(0).float(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.skipif(os.environ.get("STROP_KERNELS") == "interpret", reason="does not reach a kernel")
def test_what_is_not_exact_is_refused(scene: SimpleNamespace) -> None:
    slots = torch.tensor([0, 1, -1, -1])
    with pytest.raises(ValueError, match="one step only"):
        srgen_fit(scene.logits, flags(1), scene.head, observed(scene, 0, KNOBS), slots=slots, max_steps=2)
    with pytest.raises(ValueError, match="soft-cap"):
        srgen_fit(scene.logits, flags(1), Head(scene.head.weight, 1.0, 30.0), observed(scene, 5, KNOBS), slots=slots)
    with pytest.raises(ValueError, match="needs slots"):
        srgen_fit(scene.logits, flags(1), scene.head, observed(scene, 5, KNOBS))
    with pytest.raises(ValueError, match="1 rows are flagged, 0 prefixes"):
        srgen_fit(scene.logits, flags(1), scene.head, [])
    with pytest.raises(ValueError, match="either logits"):
        Prefix(scene.labels)
    with pytest.raises(ValueError, match="keeps 5 entries"):
        srgen_observe(observed(scene, 5, KNOBS), torch.tensor([0]), torch.zeros(1, V), row_stats(torch.zeros(1, V)))


def test_a_reused_workspace_gives_the_same_bits_twice(interpreter: None, scene: SimpleNamespace) -> None:
    state, slots = observed(scene, 5, KNOBS), torch.tensor([-1, 1, -1, -1])
    work = FitWorkspace.allocate(state, 3, D)
    for tensor in (work.shift, work.gradient, work.sums, work.weights, work.pulled, work.delta, work.moments):
        tensor.fill_(float("nan"))
    first = triton_fit(scene.logits, flags(1), scene.head, state, slots, 2, work).clone()
    assert (work.sparse == 0).all()
    assert torch.equal(triton_fit(scene.logits, flags(1), scene.head, state, slots, 2, work), first)
    assert not first.isnan().any()
