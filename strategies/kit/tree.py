"""Search trees: bookkeeping and policies, pure. Every function takes a tree and gives back a new one or a place in it.

A tree is a tuple of nodes; node 0 is the root, and a node's number never changes. What a node stands for (a draft, a
partial draft) is kept by the caller under the same number.

Policies: `thompson` (AB-MCTS-A, arXiv 2503.04412), `best_uct` with `averaged` (ReST-MCTS*, arXiv 2406.03816),
`with_room` with `passed_up` (LLaMA-Berry, arXiv 2410.02884).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum, inf, log, sqrt
from random import Random


@dataclass(frozen=True, slots=True)
class Node:
    """`value` is None where nothing is known. A `closed` node is not selected again."""

    parent: int | None = None
    value: float | None = None
    visits: int = 1
    children: tuple[int, ...] = ()
    closed: bool = False


Tree = tuple[Node, ...]
ROOT: Tree = (Node(),)
"""A tree of nothing but a root without a value."""


def add(tree: Tree, parent: int, value: float | None, *, closed: bool = False) -> Tree:
    """The tree with one more child; its number is the last."""
    mother = replace(tree[parent], children=(*tree[parent].children, len(tree)))
    return (*tree[:parent], mother, *tree[parent + 1 :], Node(parent, value, 1, (), closed))


def line(tree: Tree, node: int) -> list[int]:
    """The node and all above it, the root last."""
    found = [node]
    while (parent := tree[found[-1]].parent) is not None:
        found.append(parent)
    return found


def below(tree: Tree, node: int) -> list[int]:
    """Everything under a node, without itself, parents before children."""
    found = list(tree[node].children)
    for place in found:
        found.extend(tree[place].children)
    return found


def depth(tree: Tree, node: int) -> int:
    """Steps from the root."""
    return len(line(tree, node)) - 1


# ---- wider or deeper: Thompson sampling ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prior:
    """Normal-inverse-chi-squared: `kappa` observations' worth of mean `mean`, `nu` of variance `variance`."""

    mean: float = 0.0
    kappa: float = 1.0
    nu: float = 1.0
    variance: float = 0.1

    def updated(self, seen: Sequence[float]) -> Prior:
        """The posterior after these scores."""
        n = len(seen)
        if not n:
            return self
        mean = fsum(seen) / n
        scatter = fsum((x - mean) ** 2 for x in seen) + self.kappa * n / (self.kappa + n) * (mean - self.mean) ** 2
        nu, kappa = self.nu + n, self.kappa + n
        return Prior((self.kappa * self.mean + n * mean) / kappa, kappa, nu, (self.nu * self.variance + scatter) / nu)

    def draw(self, random: Random) -> float:
        """A possible mean score."""
        chi2 = random.gammavariate(self.nu / 2.0, 2.0)
        return random.gauss(self.mean, sqrt(self.nu * self.variance / max(chi2, 1e-300) / self.kappa))


def thompson(tree: Tree, random: Random, prior: Prior | None = None) -> int:
    """The node to expand: from the root down, a new child is weighed against going deeper, each by a random draw.

    A new child is judged by the scores of the children there are, going deeper by those of everything under them; among
    children the one with the best draw, from its own score and all under it, is gone into. Unknown scores do not count.
    """
    belief, node = prior or Prior(), 0
    while children := tree[node].children:
        under = [place for place in below(tree, node) if place not in children]
        wider = belief.updated(_values(tree, children)).draw(random)
        deeper = belief.updated(_values(tree, under)).draw(random)
        if wider >= deeper:
            return node
        draws = [belief.updated(_values(tree, [c, *below(tree, c)])).draw(random) for c in children]
        node = children[draws.index(max(draws))]
    return node


def _values(tree: Tree, nodes: Sequence[int]) -> list[float]:
    return [value for node in nodes if (value := tree[node].value) is not None]


# ---- the most promising leaf: upper confidence bounds --------------------------------------------------------------


def best_uct(tree: Tree, weight: float) -> int | None:
    """The open leaf reached by value + weight * sqrt(2 ln N(parent) / N(child)) from the root; None if all is closed.

    Of equal children the first is taken; one without a value counts as 0.
    """
    node = 0
    if tree[node].closed:
        return None
    while tree[node].children:
        parent = tree[node]

        def bound(place: int, visits: int = parent.visits) -> float:
            child = tree[place]
            if child.closed:
                return -inf
            return (child.value or 0.0) + weight * sqrt(2.0 * log(max(1, visits)) / child.visits)

        node = max(parent.children, key=bound)
    return node


def averaged(tree: Tree, node: int) -> Tree:
    """The tree after a visit to `node`: everything above gets a visit and the mean of its children by visits.

    A parent whose children are all closed is closed. `node` itself keeps its value and gets no visit.
    """
    nodes = list(tree)
    for place in line(tree, node)[1:]:
        children = [nodes[child] for child in nodes[place].children]
        known = [child for child in children if child.value is not None]
        total = sum(child.visits for child in known)
        value = fsum((child.value or 0.0) * child.visits for child in known) / total if total else nodes[place].value
        closed = all(child.closed for child in children)
        nodes[place] = replace(nodes[place], value=value, visits=nodes[place].visits + 1, closed=closed)
    return tuple(nodes)


def changed(tree: Tree, node: int, *, value: float | None = None, closed: bool | None = None) -> Tree:
    """The tree with another value or another state of one node; None leaves either alone."""
    old = tree[node]
    new = replace(old, value=old.value if value is None else value, closed=old.closed if closed is None else closed)
    return (*tree[:node], new, *tree[node + 1 :])


# ---- whole answers with a quality each -----------------------------------------------------------------------------


def passed_up(tree: Tree, share: float) -> Tree:
    """Values passed to parents: value <- (1 - share) * value + share * child's, from the youngest node on."""
    values = [node.value or 0.0 for node in tree]
    for place in range(len(tree) - 1, 0, -1):
        parent = tree[place].parent or 0
        values[parent] = (1.0 - share) * values[parent] + share * values[place]
    return tuple(replace(node, value=value) for node, value in zip(tree, values, strict=True))


def with_room(tree: Tree, weight: float, most: int) -> int:
    """The first node with fewer than `most` children on the way down by value + weight * sqrt(ln N(node) / N(child)).

    N counts a node and everything below it.
    """
    node = 0
    while len(tree[node].children) >= most:
        total = log(1 + len(below(tree, node)))

        def bound(place: int, total: float = total) -> float:
            return (tree[place].value or 0.0) + weight * sqrt(total / (1 + len(below(tree, place))))

        node = max(tree[node].children, key=bound)
    return node
