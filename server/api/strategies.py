"""GET /v1/strategies: what can be chosen, with which knobs, at which cost, and whether this engine can do it."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from typing_extensions import TypedDict

from strop.server.api.documents import errors
from strop.server.api.errors import not_found
from strop.server.service import Service
from strop.strategies.kit.strategy import Strategy


class StrategyCard(TypedDict):
    """One strategy. `knobs` is the JSON schema of its knobs; `why_not` is null when it is available."""

    object: Literal["strategy"]
    name: str
    description: str
    paper: str
    cost: str
    departures: str
    knobs: dict[str, Any]
    requires: list[str]
    available: bool
    why_not: str | None


class StrategyList(TypedDict):
    """All strategies."""

    object: Literal["list"]
    data: list[StrategyCard]


def router(service: Service) -> APIRouter:
    """The strategy routes."""
    routes = APIRouter(tags=["strategies"])

    @routes.get("/v1/strategies", summary="Strategies and their knobs", responses=errors(500))
    async def every() -> StrategyList:
        """In the order of the catalogue."""
        return {"object": "list", "data": [card(service, each) for each in service.strategies.values()]}

    @routes.get("/v1/strategies/{strategy}", summary="One strategy", responses=errors(404, 500))
    async def one(strategy: str) -> StrategyCard:
        """By name; presets are in /v1/models."""
        if strategy not in service.strategies:
            names = ", ".join(service.strategies)
            raise not_found(f"there is no strategy '{strategy[:200]}'; known: {names}", code="strategy_not_found")
        return card(service, service.strategies[strategy])

    return routes


def card(service: Service, strategy: Strategy) -> StrategyCard:
    """A strategy as clients see it."""
    has = service.capabilities
    missing = [capability for capability in sorted(strategy.requires) if capability not in has.offers]
    why = "; ".join(f"{capability}: {has.why_not(capability)}" for capability in missing)
    return {
        "object": "strategy",
        "name": strategy.name,
        "description": strategy.description,
        "paper": strategy.paper,
        "cost": strategy.cost,
        "departures": strategy.departures,
        "knobs": strategy.knobs.model_json_schema(),
        "requires": [str(capability) for capability in sorted(strategy.requires)],
        "available": not missing,
        "why_not": why or None,
    }
