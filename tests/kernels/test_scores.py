"""Scoring from hidden states, its gradient, and what a ragged batch of candidates adds up to."""

from __future__ import annotations

import math
import os
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from strop.kernels import Head, reduce_segments, score_hidden, score_sequences

HEADS = [(1.0, None), (0.125, None), (1.0, 5.0), (2.0, 30.0)]  # plain, Granite or Cohere, small cap, Gemma-2's cap


def logits64(hidden: Tensor, head: Head) -> Tensor:
    """The model's logits in float64."""
    z = hidden.double() @ head.weight.double().T * head.scale
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


@pytest.mark.parametrize(("scale", "softcap"), HEADS)
def test_tokens_score_like_the_whole_logits_in_float64(
    oracle: SimpleNamespace, scale: float, softcap: float | None
) -> None:
    head, hidden = Head(torch.randn(300, 32), scale, softcap), torch.randn(7, 32)
    targets, temperature = torch.tensor([0, 5, -100, 299, 7, 8, 9]), torch.tensor([0.5, 1.0, 1.0, 2.0, 0.0, 1.0, 1.0])
    stats = score_hidden(hidden, head, targets, temperature=temperature, topk=3, chunk=3)
    want = oracle.row_stats64(logits64(hidden, head), targets, temperature, 3)
    for name in ("logprob", "entropy", "logsumexp", "confidence", "topk_ids", "rank"):
        oracle.close(getattr(stats, name), want[name], 2e-5, name)


@pytest.mark.parametrize(("scale", "softcap"), HEADS)
def test_the_gradient_to_hidden_equals_float64_autograd(
    oracle: SimpleNamespace, scale: float, softcap: float | None
) -> None:
    head, hidden = Head(torch.randn(300, 32), scale, softcap), torch.randn(6, 32, requires_grad=True)
    targets, temperature = torch.tensor([0, 5, -100, 299, 7, 8]), torch.tensor([0.5, 1.0, 1.0, 2.0, 0.0, 1.0])
    towards_logprob, towards_entropy = torch.randn(6), torch.randn(6)
    stats = score_hidden(hidden, head, targets, temperature=temperature, chunk=4)
    known = targets >= 0
    loss = (torch.where(known, stats.logprob, 0.0) * towards_logprob).sum() + (stats.entropy * towards_entropy).sum()
    loss.backward()
    exact = hidden.detach().double().requires_grad_()
    t = torch.where(temperature > 0, temperature, 1.0).double()
    logp = torch.log_softmax(logits64(exact, head) / t[:, None], 1)
    picked = logp.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    entropy = -(logp.exp() * logp).sum(dim=1)
    ((torch.where(known, picked, 0.0) * towards_logprob).sum() + (entropy * towards_entropy).sum()).backward()
    assert hidden.grad is not None
    assert exact.grad is not None
    oracle.close(hidden.grad, exact.grad, 2e-5)
    assert not stats.rank.requires_grad
    assert not stats.logsumexp.requires_grad


def test_the_gradient_of_one_output_leaves_the_other_alone(oracle: SimpleNamespace) -> None:
    head, hidden = Head(torch.randn(50, 8)), torch.randn(3, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(score_hidden(hidden, head, torch.tensor([1, 2, 3])).entropy.sum(), hidden)
    exact = hidden.detach().double().requires_grad_()
    logp = torch.log_softmax(exact @ head.weight.double().T, 1)
    (want,) = torch.autograd.grad(-(logp.exp() * logp).sum(), exact)
    oracle.close(gradient, want, 2e-5)


def test_the_chunk_does_not_change_the_scores_or_the_gradient() -> None:
    head, hidden, targets = Head(torch.randn(90, 16)), torch.randn(5, 16, requires_grad=True), torch.arange(5)
    results = []
    for chunk in (1, 2, 512):
        stats = score_hidden(hidden, head, targets, chunk=chunk)
        (gradient,) = torch.autograd.grad(stats.logprob.sum() + stats.entropy.sum(), hidden)
        results.append([stats.logprob, stats.entropy, gradient])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_bf16_operands_give_fp32_logits(oracle: SimpleNamespace) -> None:
    """Rounding the logits to bf16 as well would cost ten times this tolerance."""
    weight, hidden = torch.randn(9000, 64).bfloat16(), torch.randn(4, 64).bfloat16()
    targets = torch.tensor([0, 1, 8999, 3])
    stats = score_hidden(hidden, Head(weight), targets)
    want = oracle.row_stats64(logits64(hidden, Head(weight)), targets, None, 0)
    oracle.close(stats.logprob, want["logprob"], 2e-5)
    rounded = oracle.row_stats64(logits64(hidden, Head(weight)).bfloat16(), targets, None, 0)
    assert (rounded["logprob"] - want["logprob"]).abs().max() > 1e-3


def test_candidates_add_up_token_by_token(oracle: SimpleNamespace) -> None:
    head, hidden = Head(torch.randn(80, 16)), torch.randn(9, 16)
    targets, offsets = torch.tensor([1, 2, 3, -100, 4, 5, -100, 6, 7]), torch.tensor([0, 3, 3, 6, 7, 9])
    scores = score_sequences(hidden, head, targets, offsets)
    logp = torch.log_softmax(logits64(hidden, head), 1)
    per_token = [float(logp[t, y]) for t, y in enumerate(targets.tolist()) if y >= 0]
    parts = [per_token[0:3], [], per_token[3:5], [], per_token[5:7]]
    assert scores.logprob.count.tolist() == [3, 0, 2, 0, 2]
    oracle.close(scores.logprob.sum, torch.tensor([sum(part) for part in parts]), 1e-5)
    oracle.close(scores.logprob.mean, torch.tensor([sum(p) / len(p) if p else math.nan for p in parts]), 1e-5)
    entropy = -(logp.exp() * logp).sum(dim=1)
    oracle.close(scores.entropy.sum[2], entropy[4:6].sum(), 1e-5)
    oracle.close(scores.tokens.entropy, entropy, 1e-5)


def test_step_scores_reduce_by_candidate_and_an_empty_one_has_no_score(oracle: SimpleNamespace) -> None:
    nan = math.nan
    got = reduce_segments(torch.tensor([0.5, 0.25, 0.0, nan, 0.9, nan, 0.7]), torch.tensor([0, 2, 2, 3, 4, 6, 7]))
    oracle.close(got.count, torch.tensor([2, 0, 1, 0, 1, 1]))
    oracle.close(got.sum, torch.tensor([0.75, 0.0, 0.0, 0.0, 0.9, 0.7]))
    oracle.close(got.mean, torch.tensor([0.375, nan, 0.0, nan, 0.9, 0.7]))
    oracle.close(got.min, torch.tensor([0.25, nan, 0.0, nan, 0.9, 0.7]))
    oracle.close(got.prod, torch.tensor([0.125, nan, 0.0, nan, 0.9, 0.7]))
    oracle.close(got.last, torch.tensor([0.25, nan, 0.0, nan, 0.9, 0.7]))
    assert got.log_prod[2] == -torch.inf


def test_the_product_of_two_hundred_steps_is_still_ranked() -> None:
    got = reduce_segments(torch.full((400,), 0.4) + torch.arange(400) // 200 * 0.01, torch.tensor([0, 200, 400]))
    assert got.prod.tolist() == [0.0, 0.0]
    assert got.log_prod[0] < got.log_prod[1]
    assert got.log_prod[0].item() == pytest.approx(200 * math.log(0.4), rel=1e-5)


def test_no_values_at_all_reduce_to_nothing() -> None:
    got = reduce_segments(torch.empty(0), torch.tensor([0, 0, 0]))
    assert got.count.tolist() == [0, 0]
    assert got.sum.tolist() == [0.0, 0.0]
    assert got.last.isnan().all()
    assert reduce_segments(torch.empty(0), torch.tensor([0])).mean.shape == (0,)


def test_wrong_shapes_are_refused() -> None:
    head = Head(torch.randn(9, 4))
    with pytest.raises(ValueError, match="hidden"):
        score_hidden(torch.randn(2, 5), head, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="chunk"):
        score_hidden(torch.randn(2, 4), head, torch.tensor([0, 1]), chunk=0)
    with pytest.raises(ValueError, match="softcap"):
        Head(torch.randn(9, 4), softcap=0.0)
    with pytest.raises(ValueError, match="contiguous"):
        Head(torch.randn(4, 9).T)
    with pytest.raises(ValueError, match="values"):
        reduce_segments(torch.randn(2, 2), torch.tensor([0, 2]))


@pytest.mark.skipif(os.environ.get("STROP_KERNELS") == "interpret", reason="memory of the torch path")
def test_scoring_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor made while scoring 64 tokens in chunks of 8 has 8 rows of logits."""
    largest = 0
    real = Head.logits

    def watched(self: Head, hidden: Tensor) -> Tensor:
        nonlocal largest
        out = real(self, hidden)
        largest = max(largest, out.shape[0])
        return out

    monkeypatch.setattr(Head, "logits", watched)
    hidden = torch.randn(64, 8, requires_grad=True)
    score_hidden(hidden, Head(torch.randn(40, 8)), torch.zeros(64, dtype=torch.int64), chunk=8).logprob.sum().backward()
    assert largest == 8
