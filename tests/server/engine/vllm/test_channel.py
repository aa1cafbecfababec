"""Numbers packed beside a rank, by us and by the worker."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.server.engine.vllm import channel

torch = pytest.importorskip("torch", reason="the worker's side is torch")

from strop.server.engine.vllm.measure import Meter, stamps  # noqa: E402


@given(st.integers(1, 2**20 - 1))
def test_a_plain_rank_says_that_nothing_was_measured(rank: int) -> None:
    assert channel.unpack(rank) == (rank, None, None)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=50), st.integers(1, 2**20 - 1))
def test_whatever_the_logits_the_rank_is_left_alone_and_the_numbers_stay_in_range(row: list[float], rank: int) -> None:
    ranks = torch.tensor([rank])
    stamps(torch.tensor([row]), [0]).onto(ranks)
    found = channel.unpack(int(ranks[0]))
    assert found.rank == rank
    assert found.entropy is not None
    assert found.certainty is not None
    assert 0 <= found.entropy <= math.log(len(row)) + 1e-5
    assert 0 <= found.certainty < 64


def test_the_worker_packs_exact_statistics_of_the_rows_that_asked() -> None:
    torch.manual_seed(0)
    logits = torch.randn(200, 5000, dtype=torch.float64) * 4
    ranks = torch.arange(1, 201)
    wanted = list(range(0, 200, 2))
    stamps(logits.float(), wanted).onto(ranks)
    logprobs = logits.log_softmax(-1)
    entropy, certainty = -(logprobs.exp() * logprobs).sum(-1), -logprobs.mean(-1) - math.log(5000)
    for row in range(200):
        found = channel.unpack(int(ranks[row]))
        assert found.rank == row + 1
        if row % 2:
            assert found.entropy is None
        else:
            assert found.entropy == pytest.approx(float(entropy[row]), abs=1e-5)
            assert found.certainty == pytest.approx(float(certainty[row]), abs=1e-4)


def test_padding_of_the_vocabulary_does_not_count() -> None:
    logits = torch.full((1, 64), -torch.inf)
    logits[0, :16] = 0.0
    ranks = torch.ones(1, dtype=torch.long)
    stamps(logits, [0]).onto(ranks)
    found = channel.unpack(int(ranks[0]))
    assert found.entropy == pytest.approx(math.log(16), abs=1e-5)
    assert found.certainty == pytest.approx(0.0, abs=1e-4)


def test_a_row_of_nonsense_is_told_as_not_measured() -> None:
    logits = torch.zeros(2, 8)
    logits[0] = torch.nan
    ranks = torch.tensor([3, 4])
    stamps(logits, [0, 1]).onto(ranks)
    assert channel.unpack(int(ranks[0])) == (3, None, None)
    assert channel.unpack(int(ranks[1])).entropy == pytest.approx(math.log(8), abs=1e-5)


def test_a_failure_costs_only_the_row_that_failed() -> None:
    meter, ranks = Meter(), torch.tensor([1, 1, 1])
    for one in meter.measure(torch.zeros(3, 8), [0, 99, 2]):
        one.onto(ranks)
    assert [channel.unpack(int(rank)).entropy is None for rank in ranks] == [False, True, False]
    assert (meter.measured, meter.failed) == (2, 1)
