"""Votes and stopping rules against closed forms."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies.kit.vote import borda, leader_is_safe, majority, weighted, window_agrees

IDS = st.lists(st.none() | st.integers(0, 4), max_size=12)


def test_the_commonest_answer_wins_and_the_result_says_by_how_much() -> None:
    result = majority(["b", None, "a", "a", None])
    assert result is not None
    assert (result.winner, result.answer, result.mass) == (2, "a", {"b": 1.0, "a": 2.0})
    assert (result.share, result.margin) == pytest.approx((2 / 3, 1 / 3))
    assert result.entropy == pytest.approx((math.log(3) - 2 / 3 * math.log(2)) / math.log(3))


@pytest.mark.parametrize("answers", [[], [None], [None, None]])
def test_nobody_wins_when_nobody_votes(answers: list[str | None]) -> None:
    assert majority(answers) is None
    assert weighted(answers, [1.0] * len(answers)) is None
    assert borda(answers, [1.0] * len(answers)) is None


def test_of_equally_common_answers_the_first_seen_wins() -> None:
    for answers, first in ((["x", "y", "y", "x"], "x"), (["y", "x", "x", "y"], "y")):
        result = majority(answers)
        assert result is not None
        assert (result.answer, result.winner, result.margin) == (first, 0, 0.0)


def test_a_single_ballot_is_unanimous() -> None:
    result = majority([7])
    assert result is not None
    assert (result.share, result.margin, result.entropy) == (1.0, 1.0, 0.0)


def test_entropy_is_one_when_no_two_agree_and_zero_when_all_do() -> None:
    apart, together = majority([1, 2, 3, 4]), majority([1, 1, 1])
    assert apart is not None
    assert together is not None
    assert (apart.entropy, together.entropy) == (pytest.approx(1.0), 0.0)


def test_weights_add_up_per_answer_and_the_heaviest_ballot_of_the_winner_is_served() -> None:
    result = weighted(["a", "b", "b", "b"], [0.9, 0.3, 0.5, 0.5])
    assert result is not None
    assert (result.answer, result.winner) == ("b", 2)
    assert result.mass == {"a": 0.9, "b": pytest.approx(1.3)}


def test_ballots_without_a_weight_do_not_vote() -> None:
    result = weighted(["a", "a", "b"], [None, math.nan, 0.1])
    assert result is not None
    assert (result.answer, result.mass, result.share) == ("b", {"b": 0.1}, 1.0)
    assert weighted(["a"], [None]) is None
    assert weighted(["a", "b"], [0.0, 0.0]) is None


@pytest.mark.parametrize("weight", [-0.1, math.inf, -math.inf])
def test_a_weight_that_cannot_be_added_up_is_an_error(weight: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        weighted(["a"], [weight])


def test_answers_and_weights_must_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        weighted(["a", "b"], [1.0])


@given(IDS, st.randoms())
@settings(deadline=None)
def test_the_order_of_equal_ballots_changes_nothing_but_ties(answers: list[int | None], random: object) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    here, there = majority(answers), majority(shuffled)
    assert (here is None) == (there is None)
    if here and there:
        assert here.mass == there.mass
        assert (here.share, here.margin) == (there.share, there.margin)
        assert here.entropy == pytest.approx(there.entropy)
        if here.margin:
            assert here.answer == there.answer


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1e6)), min_size=1, max_size=12), st.randoms())
@settings(deadline=None)
def test_weighted_sums_do_not_depend_on_the_order(ballots: list[tuple[int, float]], random: object) -> None:
    shuffled = list(ballots)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    here, there = (weighted([a for a, _ in b], [w for _, w in b]) for b in (ballots, shuffled))
    assert (here and here.mass) == (there and there.mass)


@given(st.lists(st.tuples(st.none() | st.integers(0, 3), st.none() | st.floats(0, 10)), max_size=10))
@settings(deadline=None)
def test_every_result_is_consistent(ballots: list[tuple[int | None, float | None]]) -> None:
    answers, weights = [a for a, _ in ballots], [w for _, w in ballots]
    result = weighted(answers, weights)
    if result is not None:
        assert answers[result.winner] == result.answer
        assert weights[result.winner] is not None
        assert result.mass[result.answer] == max(result.mass.values())
        assert 0 < result.share <= 1 + 1e-12
        assert 0 <= result.margin <= result.share + 1e-12
        assert 0 <= result.entropy <= 1


def test_borda_gives_powers_of_the_rank_from_the_bottom() -> None:
    result = borda(["a", "b", None, "b", "c"], [9.0, -3.0, 100.0, 2.0, None], p=2)
    assert result is not None
    assert result.mass == {"a": 9.0, "b": 5.0}
    assert (result.answer, result.winner) == ("a", 0)


def test_borda_is_majority_at_power_zero_and_best_of_n_at_a_large_one() -> None:
    answers, scores = ["a", "b", "b"], [5.0, 1.0, 2.0]
    winners = [result.answer for p in (0, 50) if (result := borda(answers, scores, p))]
    assert winners == ["b", "a"]


def test_borda_ranks_equal_scores_in_ballot_order() -> None:
    result = borda(["a", "b"], [1.0, 1.0], p=1)
    assert result is not None
    assert result.mass == {"a": 2.0, "b": 1.0}


def test_borda_refuses_what_has_no_rank() -> None:
    with pytest.raises(ValueError, match="p must not be negative"):
        borda(["a"], [1.0], p=-1)
    with pytest.raises(ValueError, match="finite"):
        borda(["a"], [math.inf])
    assert borda(["a", "a"], [math.nan, None]) is None


def test_a_leader_needs_4_6_8_9_11_12_votes_against_0_to_5() -> None:
    least = [next(a for a in range(40) if leader_is_safe(a, b)) for b in range(6)]
    assert least == [4, 6, 8, 9, 11, 12]


def test_the_stopping_rule_is_the_beta_tail_at_one_half() -> None:
    from scipy.special import betainc

    for a, b in product(range(15), range(15)):
        tail = 1 - betainc(a + 1, b + 1, 0.5)
        assert leader_is_safe(a, b, tail - 1e-9)
        assert not leader_is_safe(a, b, tail + 1e-9)


def test_the_stopping_rule_is_exact_at_its_edge() -> None:
    assert leader_is_safe(0, 0, 0.5)
    assert leader_is_safe(3, 0, 0.9375)
    assert not leader_is_safe(3, 0, 0.9376)
    with pytest.raises(ValueError, match="negative"):
        leader_is_safe(-1, 0)


@pytest.mark.parametrize(
    ("answers", "stop"),
    [
        ([1, 1, 1], True),
        ([1, 1], False),
        ([1, 1, 2], False),
        ([2, 1, 1, 1, 1, 2], False),
        ([2, 1, 1, 1, 1, 1], True),
        ([1, 1, 1, 2, 3], True),
        ([None, None, None], False),
        ([1, 1, None], False),
        ([], False),
    ],
)
def test_sampling_stops_when_a_full_window_is_unanimous(answers: list[int | None], stop: bool) -> None:
    assert window_agrees(answers, window=3) is stop


def test_a_window_holds_at_least_one_answer() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        window_agrees([1], window=0)


def test_windows_of_five_cost_the_expected_number_of_samples() -> None:
    """E = w * sum over windows drawn; with p = (0.7, 0.3), w = 5 and at most 40 samples it is 22.8."""
    agree = 0.7**5 + 0.3**5
    by_rule = 0.0
    for pattern in product([True, False], repeat=8):
        chance = math.prod(agree if unanimous else 1 - agree for unanimous in pattern)
        answers: list[int] = []
        for drawn, unanimous in enumerate(pattern):
            answers += [1, 1, 1, 1, 1] if unanimous else [1, 1, 2, 1, 1]
            if window_agrees(answers) or drawn == 7:
                break
        by_rule += chance * len(answers)
    assert by_rule == pytest.approx(22.8, abs=0.05)
