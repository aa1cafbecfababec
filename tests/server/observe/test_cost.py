"""Prices: per token, per GPU-hour, per model, or none."""

from __future__ import annotations

import pytest

from strop.server.observe.cost import Prices
from strop.server.settings import ModelPrice
from strop.strategies.kit.types import Usage

USAGE = Usage(prompt=1_000_000, cached=400_000, completion=500_000, injected=1000, calls=3, seconds=1800.0)


def test_tokens_cost_their_price_per_million() -> None:
    prices = Prices({"tiny": ModelPrice(input=1.0, output=4.0, cached_input=0.25)})
    assert prices.usd(USAGE, "tiny") == pytest.approx(0.6 * 1.0 + 0.4 * 0.25 + 0.5 * 4.0)


def test_cached_tokens_cost_as_much_as_others_without_a_price_of_their_own() -> None:
    assert Prices({"tiny": ModelPrice(input=1.0, output=0.0)}).usd(USAGE, "tiny") == pytest.approx(1.0)


def test_cached_tokens_can_be_free() -> None:
    prices = Prices({"tiny": ModelPrice(input=1.0, output=0.0, cached_input=0.0)})
    assert prices.usd(USAGE, "tiny") == pytest.approx(0.6)


def test_gpu_hours_are_charged_for_the_seconds_worked_on_every_gpu() -> None:
    assert Prices({"tiny": ModelPrice(gpu_hour=3.0, gpus=2)}).usd(USAGE, "tiny") == pytest.approx(0.5 * 3.0 * 2)


def test_a_star_prices_every_model_that_has_no_price_of_its_own() -> None:
    prices = Prices({"*": ModelPrice(input=1.0, output=0.0), "big": ModelPrice(input=2.0, output=0.0)})
    assert prices.usd(USAGE, "anything") == pytest.approx(1.0)
    assert prices.usd(USAGE, "big") == pytest.approx(2.0)


def test_an_unknown_price_is_none_and_not_zero() -> None:
    assert Prices({}).usd(USAGE, "tiny") is None
    assert Prices({"big": ModelPrice(input=2.0, output=1.0)}).usd(Usage(), "tiny") is None
    assert Prices({"*": ModelPrice(input=2.0, output=1.0)}).usd(Usage(), "tiny") == 0.0
