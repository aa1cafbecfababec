"""What engine work costs in dollars."""

from __future__ import annotations

from collections.abc import Mapping

from strop.server.settings import ModelPrice
from strop.strategies.kit.types import Usage

ANY_MODEL = "*"
PER_MILLION = 1e-6
HOURS_PER_SECOND = 1 / 3600


class Prices:
    """A price table: model name to price; the entry `*` stands for every model without one of its own."""

    def __init__(self, prices: Mapping[str, ModelPrice]) -> None:
        self._prices = dict(prices)

    def of(self, model: str) -> ModelPrice | None:
        """The price of a model; None when nobody has given one."""
        return self._prices.get(model, self._prices.get(ANY_MODEL))

    def usd(self, usage: Usage, model: str) -> float | None:
        """US dollars for `usage` by `model`; None when its price is unknown.

        Token prices are per million. Prompt tokens read from a prefix cache cost `cached_input`, or `input` when the
        table has no price for them. A model priced by `gpu_hour` costs the seconds its engine worked on the request
        times the GPUs it occupies; tokens are free then.
        """
        price = self.of(model)
        if price is None:
            return None
        if price.gpu_hour is not None:
            return usage.seconds * HOURS_PER_SECOND * price.gpu_hour * price.gpus
        fresh, output = price.input or 0.0, price.output or 0.0
        cached = fresh if price.cached_input is None else price.cached_input
        spent = (usage.prompt - usage.cached) * fresh + usage.cached * cached + usage.completion * output
        return spent * PER_MILLION
