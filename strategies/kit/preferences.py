"""From comparisons of pairs to a ranking: transitive closure and Borda counts (LLaMA-Berry, arXiv 2410.02884). Pure."""

from __future__ import annotations

from collections.abc import Mapping

Preferences = Mapping[tuple[int, int], float]
"""(i, j) to the probability that i is better than j; pairs that were not compared are missing."""


def closure(preferences: Preferences, count: int) -> list[list[bool]]:
    """Who is at least as good as whom, directly (probability 0.5 or more) or over others. Nobody beats itself."""
    wins = [[i != j and preferences.get((i, j), 0.0) >= 0.5 for j in range(count)] for i in range(count)]
    for via in range(count):
        for i in range(count):
            if wins[i][via]:
                wins[i] = [
                    known or (reached and i != j)
                    for j, (known, reached) in enumerate(zip(wins[i], wins[via], strict=True))
                ]
    return wins


def borda(wins: list[list[bool]]) -> list[int]:
    """How many others each one beats."""
    return [sum(row) for row in wins]


def ranking(preferences: Preferences, count: int) -> list[int]:
    """All from best to worst: by Borda count over the closure, equals by what was preferred, then by number."""
    points = borda(closure(preferences, count))
    direct = [sum(preferences.get((i, j), 0.0) for j in range(count) if points[j] == points[i]) for i in range(count)]
    return sorted(range(count), key=lambda i: (-points[i], -direct[i], i))


def qualities(preferences: Preferences, neighbours: list[list[int]], share: float) -> list[float]:
    """One number in [0, 1] for each: share * global + (1 - share) * local.

    Global is 1 - (rank - 1) / (count - 1), and 1 for a single one; local is the share of its `neighbours` that it
    beats, or the global one if it has none.
    """
    count = len(neighbours)
    wins = closure(preferences, count)
    rank = {node: place for place, node in enumerate(ranking(preferences, count))}
    found = []
    for node, near in enumerate(neighbours):
        overall = 1.0 - rank[node] / (count - 1) if count > 1 else 1.0
        local = sum(wins[node][other] for other in near) / len(near) if near else overall
        found.append(share * overall + (1.0 - share) * local)
    return found
