"""`row_stats` against float64, and the cases where such kernels usually go wrong."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from strop.kernels import Workspace, row_stats
from strop.kernels.row_stats import triton_row_stats

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# one lane, unaligned below and above the group of 64, the block of 4096 or 8192, and two served vocabularies
GRID = [(vocab, dtype) for vocab in (1, 5, 63, 64, 65, 129, 1000, 1024, 1025) for dtype in (FP32, BF16)]
GRID += [(1000, FP16), (4097, FP32), (8193, BF16), (49152, FP32), (151936, BF16)]


@pytest.mark.parametrize(("vocab", "dtype"), GRID)
def test_every_statistic_equals_float64(oracle: SimpleNamespace, vocab: int, dtype: torch.dtype) -> None:
    rows = 1 if vocab > 2000 else 3
    x = (torch.randn(rows, vocab) * 4).to(dtype)
    targets, topk = torch.randint(0, vocab, (rows,)), min(vocab, 7)
    oracle.agree(row_stats(x, targets, None, topk), oracle.row_stats64(x, targets, None, topk))


def test_seventeen_rows_with_their_own_temperature(oracle: SimpleNamespace) -> None:
    x, targets = torch.randn(17, 1000) * 4, torch.randint(0, 1000, (17,))
    temperature = torch.tensor([0.0, 1e-3, 0.6, 1.0, 5.0, -1.0]).repeat(3)[:17]
    oracle.agree(row_stats(x, targets, temperature, 20), oracle.row_stats64(x, targets, temperature, 20), 1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0], ids=["uniform", "plain", "peaked"])
@pytest.mark.parametrize("shift", [0.0, -300.0, 1e4])
def test_scale_and_shift_of_the_logits_do_not_cost_precision(
    oracle: SimpleNamespace, scale: float, shift: float
) -> None:
    x, targets = torch.randn(2, 1025) * scale + shift, torch.tensor([3, 1024])
    stats = row_stats(x, targets, None, 5)
    oracle.agree(stats, oracle.row_stats64(x, targets, None, 5))
    if scale == 0.0:
        oracle.close(stats.entropy, torch.full((2,), math.log(1025)), 1e-6)


def test_masked_logits_leave_the_support(oracle: SimpleNamespace) -> None:
    x, targets = torch.randn(5, 9000) * 3, torch.tensor([7, 4500, 8999, 0, 1])
    x[0, 7] = -torch.inf  # the target itself
    x[1, 4096:8192] = -torch.inf  # whole blocks
    x[2, :8999] = -torch.inf  # all but one
    x[3, :4500] = -torch.inf  # the first block
    stats, temperature = row_stats(x, targets, torch.full((5,), 0.7), 4), torch.full((5,), 0.7)
    oracle.agree(stats, oracle.row_stats64(x, targets, temperature, 4))
    assert stats.logprob[0] == -torch.inf
    assert stats.rank[0] == 9000
    assert stats.entropy[2] == 0.0
    assert stats.topk_ids[2].tolist() == [8999, 0, 1, 2]
    assert stats.confidence[2].isnan()
    assert stats.valid.all()


@pytest.mark.parametrize("mask", [-torch.inf, torch.finfo(torch.float32).min, -1e30])
def test_a_row_without_support_is_invalid_and_its_neighbours_are_not(oracle: SimpleNamespace, mask: float) -> None:
    x = torch.randn(3, 130)
    x[1] = mask
    stats = row_stats(x, torch.tensor([0, 0, 0]), None, 3)
    assert stats.valid.tolist() == [True, False, True]
    assert stats.logsumexp[1] == -torch.inf
    assert stats.max_logit[1] == -torch.inf
    for field in (stats.entropy, stats.logprob, stats.mean_logprob, stats.confidence, stats.max_prob):
        assert field.isnan().tolist() == [False, True, False]
    x[1] = 0.0
    want = oracle.row_stats64(x, torch.tensor([0, 0, 0]), None, 3)
    oracle.close(stats.entropy[::2], want["entropy"][::2])


def test_ties_go_to_the_smaller_id_and_do_not_raise_the_rank() -> None:
    x = torch.zeros(2, 5000)
    x[1, [4999, 70, 65, 3]] = 1.0
    x[1, 2] = -0.0
    stats = row_stats(x, torch.tensor([4999, 4999]), None, 6)
    assert stats.topk_ids.tolist() == [[0, 1, 2, 3, 4, 5], [3, 65, 70, 4999, 0, 1]]
    assert stats.rank.tolist() == [1, 1]


def test_bf16_ties_rank_like_a_stable_sort(oracle: SimpleNamespace) -> None:
    x = torch.randn(3, 3000).to(torch.bfloat16)
    x = (x * 4).round() / 4  # a few dozen distinct values
    targets = torch.randint(0, 3000, (3,))
    oracle.agree(row_stats(x, targets, None, 20), oracle.row_stats64(x, targets, None, 20))


def test_strided_rows_and_targets_are_read_where_they_are(oracle: SimpleNamespace) -> None:
    wide = torch.full((6, 1100), 50.0)
    wide[:, :1000] = torch.randn(6, 1000)
    x, targets = wide[::2, :1000], torch.arange(6)[::2] * 100
    assert x.stride(0) == 2200
    oracle.agree(row_stats(x, targets, None, 3), oracle.row_stats64(x, targets, None, 3))


def test_a_target_outside_the_vocabulary_has_no_logprob() -> None:
    stats = row_stats(torch.randn(4, 100), torch.tensor([-100, -1, 100, 99]))
    assert stats.logprob.isnan().tolist() == [True, True, True, False]
    assert (stats.rank == 0).tolist() == [True, True, True, False]


def test_the_bias_is_added_to_every_row(oracle: SimpleNamespace) -> None:
    x, bias, targets = torch.randn(2, 700), torch.randn(700), torch.tensor([1, 650])
    oracle.agree(row_stats(x, targets, None, 5, bias=bias), oracle.row_stats64(x + bias, targets, None, 5))


def test_self_certainty_is_the_divergence_from_uniform() -> None:
    x = torch.randn(2, 300)
    uniform = torch.full((300,), 1 / 300)
    want = (uniform * (uniform.log() - torch.log_softmax(x, 1))).sum(dim=1)
    torch.testing.assert_close(row_stats(x).self_certainty, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(row_stats(torch.zeros(1, 300)).self_certainty, torch.zeros(1), rtol=0, atol=1e-6)


def test_rows_do_not_see_each_other() -> None:
    x, targets, order = torch.randn(5, 300), torch.randint(0, 300, (5,)), torch.tensor([3, 1, 4, 0, 2])
    for a, b in zip(row_stats(x, targets, None, 4), row_stats(x[order], targets[order], None, 4), strict=True):
        assert torch.equal(a[order], b)


def test_an_empty_batch_gives_empty_results() -> None:
    stats = row_stats(torch.empty(0, 50), torch.empty(0, dtype=torch.int64), None, 3)
    assert stats.entropy.shape == (0,)
    assert stats.topk_ids.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.randn(3)}, "logits are"),
        ({"logits": torch.randn(3, 4).double()}, "logits are"),
        ({"logits": torch.randn(4, 3).T}, "contiguous"),
        ({"targets": torch.zeros(2, dtype=torch.int64)}, "targets is"),
        ({"temperature": torch.ones(4)}, "temperature is"),
        ({"bias": torch.ones(4).double()}, "bias is"),
        ({"topk": 5}, "topk is"),
        ({"topk": -1}, "topk is"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_wrong_arguments_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        row_stats(**{"logits": torch.randn(3, 4), **change})


@given(
    rows=st.integers(1, 3), vocab=st.integers(1, 300), scale=st.sampled_from([0.1, 3.0, 20.0]), seed=st.integers(0, 99)
)
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_shapes_equal_float64(oracle: SimpleNamespace, rows: int, vocab: int, scale: float, seed: int) -> None:
    x = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale
    targets, topk = torch.arange(rows) % vocab, min(3, vocab)
    oracle.agree(row_stats(x, targets, None, topk), oracle.row_stats64(x, targets, None, topk))


def test_the_number_of_splits_does_not_change_the_result(interpreter: None) -> None:
    x, targets = torch.randn(1, 70000) * 3, torch.tensor([69999])
    results = [
        triton_row_stats(x, targets, None, 5, None, Workspace.allocate(1, 70000, 5, "cpu", splits))
        for splits in (1, 5, 16)
    ]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


def test_every_output_is_written_over_poison(interpreter: None, oracle: SimpleNamespace) -> None:
    x, targets = torch.randn(3, 5000), torch.tensor([0, -100, 4999])
    x[2] = -torch.inf
    clean = triton_row_stats(x, targets, None, 4, None)
    work = Workspace.allocate(3, 5000, 4, "cpu")
    for tensor in (work.partial, work.groups, work.floats, work.topk_logprobs):
        tensor.fill_(123.0)
    work.ints.fill_(-7)
    work.topk_ids.fill_(-7)
    for name, a, b in zip(clean._fields, clean, triton_row_stats(x, targets, None, 4, None, work), strict=True):
        oracle.close(b, a, 0.0, name)
        assert not (b == 123.0).any()
        assert not (b == -7).any()
