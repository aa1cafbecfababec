"""Token, group and draft confidence."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies.kit import Draft, Tokens
from strop.strategies.kit.confidence import draft_confidence, group_confidences, percentile, token_confidences


def written(*confidences: float) -> Draft:
    rows = tuple(((1, "a", -c + 0.1), (2, "b", -c - 0.1)) for c in confidences)
    count = len(confidences)
    return Draft("x" * count, tokens=Tokens((1,) * count, ("x",) * count, top=rows), n_tokens=count)


def test_the_confidence_of_a_token_is_the_mean_of_minus_log_p() -> None:
    top = (((1, "a", math.log(0.5)), (2, "b", math.log(0.25))), ())
    assert token_confidences(Tokens((1, 2), ("a", "b"), top=top)) == [pytest.approx((math.log(2) + math.log(4)) / 2)]


def test_a_peaked_distribution_is_surer_than_a_flat_one() -> None:
    peaked, flat = [[math.log(p), math.log((1 - p) / 3), math.log((1 - p) / 3)] for p in (0.97, 0.3)]
    assert -sum(peaked) > -sum(flat)


def test_impossible_alternatives_say_nothing() -> None:
    top = (((1, "a", -1.0), (2, "b", -9999.0)),)
    assert token_confidences(Tokens((1,), ("a",), top=top)) == [1.0]


@settings(deadline=None)
@given(st.lists(st.floats(0, 20), max_size=60), st.integers(1, 30))
def test_groups_are_sliding_means(values: list[float], window: int) -> None:
    groups = group_confidences(values, window)
    size = min(window, len(values))
    slow = [sum(values[i : i + size]) / size for i in range(len(values) - size + 1)] if values else []
    assert groups == pytest.approx(slow, abs=1e-9)


def test_every_measure_looks_where_it_should() -> None:
    draft = written(1.0, 1.0, 4.0, 4.0, 7.0, 7.0)
    got = {how: draft_confidence(draft, how, 2) for how in ("mean", "tail", "bottom", "lowest")}  # type: ignore[arg-type]
    assert got == pytest.approx({"mean": 4.0, "tail": 7.0, "bottom": 1.0, "lowest": 1.0})


def test_a_draft_shorter_than_the_window_is_one_group() -> None:
    assert draft_confidence(written(1.0, 3.0), "lowest", 100) == pytest.approx(2.0)


def test_without_alternatives_there_is_no_confidence() -> None:
    assert draft_confidence(Draft("x"), "mean", 4) is None


@pytest.mark.parametrize(("percent", "value"), [(0, 1.0), (50, 2.5), (90, 3.7), (100, 4.0)])
def test_percentiles_are_interpolated(percent: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(value)


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
