"""Closure, Borda counts and qualities."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies.kit.preferences import borda, closure, qualities, ranking


def beats(*pairs: tuple[int, int]) -> dict[tuple[int, int], float]:
    """The first of each pair was preferred."""
    return {pair: 1.0 for pair in pairs} | {(j, i): 0.0 for i, j in pairs}


def test_beating_is_transitive() -> None:
    wins = closure(beats((0, 1), (1, 2)), 3)
    assert wins[0][2]
    assert not wins[2][0]
    assert borda(wins) == [2, 1, 0]


def test_equals_beat_each_other_and_nobody_beats_itself() -> None:
    wins = closure({(0, 1): 0.5, (1, 0): 0.5}, 2)
    assert wins == [[False, True], [True, False]]


def test_a_cycle_makes_equals_and_the_direct_preference_breaks_the_tie() -> None:
    cycle = beats((0, 1), (1, 2), (2, 0))
    assert borda(closure(cycle, 3)) == [2, 2, 2]
    assert ranking(cycle, 3) == [0, 1, 2]
    assert ranking({(0, 1): 0.5, (1, 0): 0.5, (0, 2): 0.2, (2, 0): 0.8, (1, 2): 0.5, (2, 1): 0.5}, 3)[0] == 2


@settings(deadline=None)
@given(st.permutations(range(6)))
def test_a_consistent_order_is_found_again(order: list[int]) -> None:
    assert ranking(beats(*itertools.combinations(order, 2)), 6) == order
    neighbours_only = beats(*itertools.pairwise(order))
    assert ranking(neighbours_only, 6) == order


def test_quality_goes_from_one_for_the_first_to_nothing_for_the_last() -> None:
    assert qualities(beats((1, 0), (0, 2), (1, 2)), [[], [], []], 0.9) == pytest.approx([0.5, 1.0, 0.0])
    assert qualities({}, [[]], 0.9) == [1.0]


def test_the_local_part_is_the_share_of_neighbours_beaten() -> None:
    preferences = beats((1, 0), (0, 2), (1, 2))
    got = qualities(preferences, [[1, 2], [0], [0]], 0.0)
    assert got == [0.5, 1.0, 0.0]


def test_who_was_never_compared_beats_nobody() -> None:
    assert borda(closure(beats((0, 1)), 3)) == [1, 0, 0]
