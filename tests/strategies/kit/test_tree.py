"""Search trees: bookkeeping and policies."""

from __future__ import annotations

from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies.kit.tree import (
    ROOT,
    Prior,
    Tree,
    add,
    averaged,
    below,
    best_uct,
    changed,
    depth,
    line,
    passed_up,
    thompson,
    with_room,
)


def tree_of(*nodes: tuple[int, float | None]) -> Tree:
    """A tree from the parent and the value of each node after the root."""
    tree = ROOT
    for parent, value in nodes:
        tree = add(tree, parent, value)
    return tree


FAMILY = tree_of((0, 0.1), (0, 0.2), (1, 0.3), (3, 0.4))


def test_a_tree_knows_who_is_above_and_below() -> None:
    assert (line(FAMILY, 4), below(FAMILY, 1), below(FAMILY, 0)) == ([4, 3, 1, 0], [3, 4], [1, 2, 3, 4])
    assert [depth(FAMILY, node) for node in range(5)] == [0, 1, 1, 2, 3]


def test_growing_a_tree_leaves_the_old_one_as_it_was() -> None:
    old = tree_of((0, 0.5))
    add(old, 1, 0.6)
    changed(old, 1, value=0.9)
    assert (old[1].children, old[1].value) == ((), 0.5)


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=30))
def test_parents_and_children_agree(parents: list[int]) -> None:
    tree = ROOT
    for parent in parents:
        tree = add(tree, parent % len(tree), None)
    for place, node in enumerate(tree):
        assert all(tree[child].parent == place for child in node.children)
    assert sorted(below(tree, 0)) == list(range(1, len(tree)))


# ---- Thompson sampling ---------------------------------------------------------------------------------------------


def test_the_posterior_is_the_conjugate_one() -> None:
    got = Prior().updated([0.4, 0.8])
    assert (got.mean, got.kappa, got.nu) == (pytest.approx(0.4), 3.0, 3.0)
    assert got.variance == pytest.approx((0.1 + 0.08 + 1 * 2 / 3 * 0.36) / 3)
    assert Prior().updated([]) == Prior()


def test_one_at_a_time_or_all_at_once_gives_the_same_posterior() -> None:
    slow = Prior().updated([0.2]).updated([0.9]).updated([0.4])
    fast = Prior().updated([0.2, 0.9, 0.4])
    assert (slow.mean, slow.kappa, slow.nu, slow.variance) == pytest.approx((fast.mean, 4.0, 4.0, fast.variance))


def test_draws_scatter_around_the_posterior_mean_and_less_so_the_more_is_seen() -> None:
    few, many = Prior().updated([0.7] * 3), Prior().updated([0.7] * 300)
    random = Random(1)
    a, b = [few.draw(random) for _ in range(2000)], [many.draw(random) for _ in range(2000)]
    assert fmean(a) == pytest.approx(few.mean, abs=0.03)
    assert fmean(b) == pytest.approx(many.mean, abs=0.001)
    assert max(b) - min(b) < 0.2 < max(a) - min(a)


def test_an_empty_tree_grows_at_the_root() -> None:
    assert thompson(ROOT, Random(0)) == 0


def shares(tree: Tree, draws: int = 600) -> list[float]:
    chosen = [thompson(tree, Random(i)) for i in range(draws)]
    return [chosen.count(node) / draws for node in range(len(tree))]


def test_where_refining_helped_the_search_goes_deeper() -> None:
    wide = [(0, 0.2)] * 6
    assert shares(tree_of(*wide, *[(1, 0.95)] * 6))[0] < 0.1
    assert shares(tree_of(*wide, *[(1, 0.05)] * 6))[0] > 0.6


def test_the_better_child_is_gone_into_more_often() -> None:
    found = shares(tree_of(*[(0, 0.1)] * 4, (0, 0.9), (5, 0.9), (5, 0.9), (5, 0.95), (5, 0.9)))
    assert sum(found[5:]) > 0.5 > sum(found[1:5])


def test_unknown_scores_do_not_count() -> None:
    known, unknown = tree_of((0, 0.5)), tree_of((0, 0.5), (0, None))
    assert [thompson(known, Random(i)) == 0 for i in range(50)] == [
        thompson(unknown, Random(i)) == 0 for i in range(50)
    ]


# ---- upper confidence bounds ---------------------------------------------------------------------------------------


def test_without_exploration_the_best_leaf_is_chosen() -> None:
    assert best_uct(tree_of((0, 0.1), (0, 0.9), (2, 0.3), (2, 0.8)), 0.0) == 4


def test_exploration_turns_to_what_was_seldom_visited() -> None:
    tree = tree_of((0, 0.5), (0, 0.6), (2, 0.6))
    for _ in range(20):
        tree = averaged(tree, 3)
    assert best_uct(tree, 0.0) == 3
    assert best_uct(tree, 5.0) == 1


def test_closed_nodes_are_left_alone_and_a_closed_root_ends_the_search() -> None:
    tree = changed(tree_of((0, 0.1), (0, 0.9)), 2, closed=True)
    assert best_uct(tree, 0.0) == 1
    assert best_uct(averaged(changed(tree, 1, closed=True), 1), 0.0) is None


def test_the_value_of_a_parent_is_the_mean_of_its_children_by_visits() -> None:
    tree = averaged(tree_of((0, 0.2), (0, 0.8), (2, 0.6)), 3)
    assert (tree[2].value, tree[2].visits) == (0.6, 2)
    assert tree[0].value == pytest.approx((0.2 * 1 + 0.6 * 2) / 3)
    assert (tree[0].visits, tree[1].visits, tree[3].visits) == (2, 1, 1)


# ---- whole answers -------------------------------------------------------------------------------------------------


def test_values_are_passed_up_from_the_youngest() -> None:
    tree = passed_up(tree_of((0, 0.5), (1, 1.0)), 0.5)
    assert [node.value for node in tree] == pytest.approx([0.375, 0.75, 1.0])


def test_a_node_with_room_is_filled_before_its_children() -> None:
    assert with_room(tree_of((0, 0.9)), 1.4, 2) == 0
    assert with_room(tree_of((0, 0.9), (0, 0.1)), 0.0, 2) == 1
    assert with_room(tree_of((0, 0.9), (0, 0.8), (1, 0.1), (1, 0.1)), 0.0, 2) == 3
    assert with_room(tree_of((0, 0.9), (0, 0.8), (1, 0.1), (1, 0.1)), 1.4, 2) == 2
