"""Weights and resampling of particles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies.kit.particles import effective, logit, pick, systematic, weights

SHARES = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=20).map(lambda w: [x / math.fsum(w) for x in w])


def test_certain_scores_are_clipped_and_stay_finite() -> None:
    assert logit(1.0) == pytest.approx(math.log(1e7), rel=1e-6)
    assert logit(0.0) == pytest.approx(-math.log(1e7), rel=1e-6)
    assert logit(0.5) == 0.0
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        logit(1.5)


def test_shares_are_proportional_to_the_odds_and_temperature_flattens_them() -> None:
    a, b = weights([0.9, 0.5])
    assert a / b == pytest.approx(9.0)
    a, b = weights([0.9, 0.5], temperature=2.0)
    assert a / b == pytest.approx(3.0)


def test_a_particle_without_a_score_weighs_as_the_mean_logit_of_the_others() -> None:
    assert weights([0.8, None, 0.2])[1] == pytest.approx(weights([0.8, 0.5, 0.2])[1])
    assert weights([None, None]) == [0.5, 0.5]


def test_the_effective_number_goes_from_one_to_all() -> None:
    assert effective([0.25] * 4) == pytest.approx(4.0)
    assert effective([1.0, 0.0, 0.0]) == pytest.approx(1.0)


@settings(deadline=None)
@given(SHARES, st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_systematic_resampling_gives_the_floor_or_the_ceiling(shares: list[float], count: int, u: float) -> None:
    copies = systematic(shares, count, u)
    assert sum(copies) == count
    for got, share in zip(copies, shares, strict=True):
        assert math.floor(count * share - 1e-9) <= got <= math.ceil(count * share + 1e-9)


@settings(deadline=None)
@given(SHARES, st.integers(1, 8))
def test_systematic_resampling_is_unbiased(shares: list[float], count: int) -> None:
    draws = 100
    total = [0] * len(shares)
    for i in range(draws):
        total = [a + b for a, b in zip(total, systematic(shares, count, (i + 0.5) / draws), strict=True)]
    for got, share in zip(total, shares, strict=True):
        assert abs(got / draws - count * share) <= 1.5 / draws * 2


def test_picking_follows_the_shares() -> None:
    assert [pick([0.25, 0.5, 0.25], u) for u in (0.0, 0.24, 0.25, 0.74, 0.75, 0.999)] == [0, 0, 1, 1, 2, 2]
