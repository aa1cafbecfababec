"""GET /v1/models: the base model first, then one id per preset, for clients that can only choose a model."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from typing_extensions import TypedDict

from strop.server.api.documents import errors
from strop.server.api.errors import not_found
from strop.server.api.select import Named, presets, resolve, suffix_of
from strop.server.service import Service
from strop.strategies.kit.errors import BadRequest


class ModelCard(TypedDict):
    """One model id. `max_model_len` is the context in tokens, null when unknown; `strop` is null for the base."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int | None
    strop: dict[str, Any] | None


class ModelList(TypedDict):
    """All model ids."""

    object: Literal["list"]
    data: list[ModelCard]


def router(service: Service) -> APIRouter:
    """The model routes, also below /v1/strategies/{strategy}, where some SDKs look for them."""
    routes = APIRouter(tags=["models"])

    @routes.get("/v1/models", summary="Models and presets", responses=errors(500))
    async def every() -> ModelList:
        """The base model, then the presets as `base:preset`."""
        return listing(service)

    @routes.get("/v1/models/{model:path}", summary="One model or preset", responses=errors(404, 500))
    async def one(model: str) -> ModelCard:
        """Any id that a request may name; `base:strategy` works too."""
        return _found(service, model)

    @routes.get("/v1/strategies/{strategy}/models", summary="Models and presets", responses=errors(404, 500))
    async def every_with(strategy: str) -> ModelList:
        """The same list as `/v1/models`."""
        known(service, strategy)
        return listing(service)

    @routes.get(
        "/v1/strategies/{strategy}/models/{model:path}", summary="One model or preset", responses=errors(404, 500)
    )
    async def one_with(strategy: str, model: str) -> ModelCard:
        """The same as `/v1/models/{model}`."""
        known(service, strategy)
        return _found(service, model)

    return routes


def listing(service: Service) -> ModelList:
    """The base first."""
    suffixes: list[str | None] = [None, *presets(service)]
    return {"object": "list", "data": [_card(service, suffix) for suffix in suffixes]}


def known(service: Service, name: str, source: str = "path") -> None:
    """404 if there is no strategy or preset of that name."""
    try:
        resolve(service, Named(name, source, "strategy"))
    except BadRequest as unknown:
        raise not_found(unknown.message, code=unknown.code, param="strategy") from unknown


def _found(service: Service, model: str) -> ModelCard:
    suffix = suffix_of(service, model)
    if suffix is not None:
        try:
            resolve(service, Named(suffix, "model", "model"))
        except BadRequest as unknown:
            raise not_found(unknown.message, code="model_not_found", param="model") from unknown
    return _card(service, suffix)


def _card(service: Service, suffix: str | None) -> ModelCard:
    info, base = service.engine.model, service.model_name
    about: dict[str, Any] | None = None
    if suffix is not None:
        strategy, preset = resolve(service, Named(suffix, "model", "model"))
        about = {
            "strategy": strategy.name,
            "knobs": dict(preset.knobs) if preset else {},
            "description": preset.description if preset else strategy.description,
        }
    return {
        "id": base if suffix is None else f"{base}:{suffix}",
        "object": "model",
        "created": info.created,
        "owned_by": info.owned_by,
        "root": base,
        "parent": None if suffix is None else base,
        "max_model_len": info.context,
        "strop": about,
    }
