"""The compiled kernels on a real device: same numbers as the torch path, predication, and CUDA graphs."""

from __future__ import annotations

import pytest
import torch

from strop.kernels import (
    EntropyGate,
    EntropyKnobs,
    FitKnobs,
    FitWorkspace,
    Flagged,
    Head,
    RowStats,
    SlotState,
    Workspace,
    entropy_gate,
    row_stats,
    score_hidden,
    self_check,
    srgen_apply,
    srgen_fit,
    srgen_observe,
)
from strop.kernels.row_stats import row_stats_reference
from strop.kernels.srgen_fit import state_reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def close(got: RowStats, want: RowStats, tolerance: float = 2e-5) -> None:
    for name, a, b in zip(got._fields, got, want, strict=True):
        if a.dtype == torch.int64:
            assert torch.equal(a, b), name
        else:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True, msg=name)


@pytest.fixture(autouse=True)
def on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_KERNELS", "triton")
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False


def test_every_op_passes_its_self_check() -> None:
    report = self_check()
    assert all(health.path == "triton" and health.ok for health in report.values()), report


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 17, 257])
@pytest.mark.parametrize("vocab", [1, 65, 1025, 49152, 151936])
def test_row_statistics_equal_the_torch_path(vocab: int, rows: int, dtype: torch.dtype) -> None:
    x = (torch.randn(rows, vocab, device="cuda") * 4).to(dtype)
    targets = torch.randint(0, vocab, (rows,), device="cuda")
    temperature = torch.rand(rows, device="cuda") * 2
    topk = min(vocab, 20)
    close(row_stats(x, targets, temperature, topk), row_stats_reference(x, targets, temperature, topk))


def test_rows_beyond_two_to_the_31_elements_are_addressed() -> None:
    rows, vocab = 14200, 151936
    x = torch.zeros(rows, vocab, dtype=torch.bfloat16, device="cuda")
    x[-1, 151000] = 8.0
    stats = row_stats(x, torch.full((rows,), 151000, device="cuda"), None, 1)
    assert int(stats.topk_ids[-1, 0]) == 151000
    assert float(stats.logprob[-1]) > -5.0 > float(stats.logprob[0])


def test_statistics_replay_in_a_cuda_graph() -> None:
    x, targets = torch.randn(8, 32000, device="cuda"), torch.zeros(8, dtype=torch.int64, device="cuda")
    work = Workspace.allocate(8, 32000, 20, "cuda")
    row_stats(x, targets, None, 20, workspace=work)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        row_stats(x, targets, None, 20, workspace=work)
    x.copy_(torch.randn(8, 32000, device="cuda") * 3)
    graph.replay()
    close(work.result(), row_stats_reference(x, targets, None, 20))


def test_scores_and_their_gradient_equal_fp32_autograd() -> None:
    weight, hidden = torch.randn(32000, 256, device="cuda").bfloat16(), torch.randn(600, 256, device="cuda").bfloat16()
    targets = torch.randint(0, 32000, (600,), device="cuda")
    hidden.requires_grad_()
    stats = score_hidden(hidden, Head(weight), targets)
    (gradient,) = torch.autograd.grad(stats.logprob.sum() + stats.entropy.sum(), hidden)
    exact = hidden.detach().float().requires_grad_()
    logp = torch.log_softmax(exact @ weight.float().T, 1)
    loss = logp.gather(1, targets[:, None]).sum() - (logp.exp() * logp).sum()
    (want,) = torch.autograd.grad(loss, exact)
    torch.testing.assert_close(stats.logprob, logp.gather(1, targets[:, None])[:, 0], rtol=1e-4, atol=1e-3)
    assert float((gradient.float() - want).norm() / want.norm()) < 0.01


def make_state(vocab: int, dtype: torch.dtype) -> tuple[SlotState, Head, torch.Tensor]:
    state = SlotState.allocate(4, vocab, "cuda", sparse=20, max_tokens=64)
    head = Head((torch.randn(vocab, 512, device="cuda") * 0.3).to(dtype))
    logits = torch.randn(100, vocab, device="cuda") * 3
    for slot in range(4):
        state.open(slot, FitKnobs(steps=3 - slot % 2, temperature=0.6))
    offsets = torch.tensor([0, 20, 95, 95, 100], device="cuda")
    labels = torch.randint(0, vocab, (100,), device="cuda")
    srgen_observe(
        state, torch.arange(4, device="cuda"), logits, row_stats(logits, topk=20), labels=labels, offsets=offsets
    )
    return state, head, logits[:6].clone()


def flags(rows: list[int], capacity: int = 16) -> Flagged:
    padded = torch.tensor(rows + [-1] * (capacity - len(rows)), dtype=torch.int32, device="cuda")
    return Flagged(padded, torch.tensor([len(rows)], dtype=torch.int32, device="cuda"), padded, padded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_fit_from_the_state_equals_the_torch_path(dtype: torch.dtype) -> None:
    state, head, logits = make_state(32000, dtype)
    slots, flagged = torch.tensor([-1, 1, 0, -1, 3, 2], device="cuda"), flags([1, 2, 4])
    delta = srgen_fit(logits, flagged, head, state, slots=slots)
    want = state_reference(logits, flagged, head, state, slots, 3)
    corrected = srgen_apply(logits.clone(), flagged, head, delta)
    p = torch.log_softmax(corrected[[1, 2, 4]].double(), 1)
    q = torch.log_softmax(logits[[1, 2, 4]].double() + head.linear(want[:3]), 1)
    assert float((p.exp() * (p - q)).sum(dim=1).max()) < 1e-4
    assert torch.equal(corrected[[0, 3, 5]], logits[[0, 3, 5]])


def test_the_fit_is_deterministic_and_replays_in_a_graph_with_the_counter_on_the_device() -> None:
    state, head, logits = make_state(32000, torch.bfloat16)
    slots, flagged = torch.tensor([-1, 1, 0, -1, 3, 2], device="cuda"), flags([1, 4])
    work = FitWorkspace.allocate(state, 16, 512)
    first = srgen_fit(logits, flagged, head, state, slots=slots, workspace=work).clone()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        srgen_fit(logits, flagged, head, state, slots=slots, workspace=work)
    graph.replay()
    assert torch.equal(work.delta, first)
    flagged.count.zero_()
    graph.replay()
    assert (work.delta == 0).all()


def test_the_gate_replays_in_a_graph() -> None:
    gate, out = EntropyGate.allocate(4, "cuda"), Flagged.allocate(3, 16, "cuda")
    for slot in range(4):
        gate.open(slot, EntropyKnobs(window=2, warmup_threshold=1.0))
    entropy, slots = (
        torch.tensor([0.5, 2.0, 2.0], device="cuda"),
        torch.tensor([0, 2, -1], dtype=torch.int32, device="cuda"),
    )
    entropy_gate(entropy, slots, gate, out=out)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        entropy_gate(entropy, slots, gate, out=out)
    graph.replay()
    assert out.rows[:2].tolist() == [1, -1]
    assert gate.seen.tolist() == [2, 0, 2, 0]
