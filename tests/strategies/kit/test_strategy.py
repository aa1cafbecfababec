"""The catalogue reads strategies off their functions."""

from __future__ import annotations

import pytest

from strop.strategies import CATALOGUE, discover
from strop.strategies.kit import Capability, Chat, Context, Draft, catalogue, find
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.strategy import strategy_of


async def whole(ctx: Context, question: Chat, rounds: int = 1) -> Draft:
    """Does things.

    In two paragraphs.

    Paper: Somebody, 2024,
        arXiv 1234.
    Cost: one call.
    Departures: none.
    Requires: prefix, tokens
    """
    raise NotImplementedError


async def ranks(ctx: Context, question: Chat) -> list[Draft]:
    """Ranks.

    Paper: none.
    Cost: nothing.
    Departures: none.
    """
    return []


async def bare(ctx: Context, question: Chat) -> Draft:
    """Says nothing about itself.

    Cost: one call.
    """
    raise NotImplementedError


def test_everything_comes_from_the_function() -> None:
    strategy = strategy_of(whole)
    assert strategy.name == "whole"
    assert strategy.description == "Does things. In two paragraphs."
    assert strategy.paper == "Somebody, 2024, arXiv 1234."
    assert (strategy.cost, strategy.departures) == ("one call.", "none.")
    assert strategy.requires == {Capability.PREFIX, Capability.TOKENS}
    assert strategy.check({}) == {"rounds": 1}


def test_a_strategy_that_returns_a_list_ranks_its_drafts() -> None:
    assert strategy_of(ranks).ranked
    assert not strategy_of(whole).ranked


def test_a_docstring_without_paper_or_departures_is_refused() -> None:
    with pytest.raises(TypeError, match=r"bare.* lacks Paper, Departures"):
        strategy_of(bare)


def test_the_catalogue_keeps_the_given_order_and_cannot_be_changed() -> None:
    known = catalogue(whole, ranks)
    assert list(known) == ["whole", "ranks"]
    with pytest.raises(TypeError):
        known["other"] = known["whole"]  # type: ignore[index]


def test_an_unknown_strategy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadRequest, match=r"no strategy 'wohle'; known: whole, ranks") as refused:
        find(catalogue(whole, ranks), "wohle")
    assert refused.value.code == "strategy_not_found"


class Entry:
    def __init__(self, body: object) -> None:
        self.name, self._body = "plugin", body

    def load(self) -> object:
        return self._body


def test_installed_packages_add_strategies_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def entries(*, group: str) -> list[Entry]:
        asked.append(group)
        return [Entry(whole)]

    monkeypatch.setattr("strop.strategies.entry_points", entries)
    assert list(discover()) == [*CATALOGUE, "whole"]
    assert asked == ["strop.strategies"]
    assert "whole" not in CATALOGUE


def test_two_strategies_of_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strop.strategies.entry_points", lambda *, group: [Entry(whole), Entry(whole)])
    with pytest.raises(TypeError, match="'whole' a second time"):
        discover()
