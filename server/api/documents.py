"""The OpenAPI document. Bodies are read by hand, so their schemas are added here: the same models that parse them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from strop.server.api.errors import ErrorBody
from strop.server.api.wire import chat, responses, text
from strop.server.settings import Settings

REF = "#/components/schemas/{model}"
_FRAMEWORK = ("HTTPValidationError", "ValidationError")

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request is wrong, or asks for what cannot be done"},
    403: {"model": ErrorBody, "description": "This key may not do that"},
    404: {"model": ErrorBody, "description": "There is no such model, strategy or page"},
    413: {"model": ErrorBody, "description": "The body is too large"},
    415: {"model": ErrorBody, "description": "The body is not application/json"},
    429: {"model": ErrorBody, "description": "Too many requests or tokens; see retry-after"},
    500: {"model": ErrorBody, "description": "The server failed"},
    502: {"model": ErrorBody, "description": "The engine failed"},
    503: {"model": ErrorBody, "description": "No room, or the model is not available; see retry-after"},
    504: {"model": ErrorBody, "description": "The deadline passed before the first token"},
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documented error responses."""
    return {status: ERRORS[status] for status in statuses}


def endpoint(request: type[BaseModel], response: Any, *media_types: str) -> dict[str, Any]:
    """Arguments for a POST route that reads `request` itself; its schema is filled in by `install`."""
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": ref(request)}}}}
    others: dict[str, Any] = {kind: {"schema": {"type": "string"}} for kind in media_types}
    return {
        "openapi_extra": {"requestBody": body},
        "responses": {200: {"model": response, "description": "The answer", "content": others}, **ERRORS},
        "response_model": None,
    }


def ref(model: type[BaseModel]) -> str:
    """Where a model's schema is in the document."""
    return REF.format(model=model.__name__)


def install(app: FastAPI, settings: Settings, requests: Sequence[type[BaseModel]]) -> None:
    """Make `app.openapi()` tell the truth about bodies, errors and this server's limits.

    `requests` are the models of all bodies that routes read themselves.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, settings, requests)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to change it


def _document(app: FastAPI, settings: Settings, requests: Sequence[type[BaseModel]]) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for operation in (op for path in document["paths"].values() for op in path.values()):
        operation["responses"].pop("422", None)
    for name in _FRAMEWORK:
        schemas.pop(name, None)
    _, extra = models_json_schema([(model, "validation") for model in requests], ref_template=REF)
    schemas.update(extra.get("$defs", {}))
    _limit(schemas, settings)
    return document


def _limit(schemas: dict[str, Any], settings: Settings) -> None:
    """What depends on settings, and what is refused rather than ignored."""
    modules = {"ChatRequest": chat, "CompletionRequest": text, "ResponsesRequest": responses}
    for model, module in modules.items():
        fields = schemas.get(model, {}).get("properties", {})
        if "n" in fields:
            fields["n"] = {"type": ["integer", "null"], "minimum": 1, "maximum": settings.max_choices}
        if "messages" in fields:
            fields["messages"]["maxItems"] = settings.max_messages
            fields["modalities"] = {"type": ["array", "null"], "items": {"enum": ["text"]}}
        for name, neutral in module.REFUSED.items() if fields else ():
            fields[name] = {"enum": list(neutral), "description": "not supported"}
