"""Probes, version and metrics."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Request, Response
from typing_extensions import TypedDict

from strop.server.api.documents import errors
from strop.server.api.errors import SERVER, HttpError, retry_headers
from strop.server.service import Service

log = logging.getLogger("strop.server.api")


class Alive(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class Ready(Alive):
    """Requests would be served now; `engines` lists the roles that were asked."""

    engines: list[str]


class Version(TypedDict):
    """The version of strop."""

    version: str


def router(service: Service) -> APIRouter:
    """Probes need no key: they tell that something is wrong, never what."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/health/live", summary="Does the process answer?")
    async def live() -> Alive:
        """Always yes."""
        return {"status": "ok"}

    @routes.get("/health/ready", summary="Would a request be served?", responses=errors(503))
    async def ready() -> Ready:
        """503 while an engine is loading, down or unreachable."""
        return readiness(service)

    @routes.get("/health", summary="The same as /health/ready", responses=errors(503))
    async def health() -> Ready:
        """The name that vLLM uses."""
        return readiness(service)

    @routes.get("/version", summary="Version of strop")
    async def which() -> Version:
        """As installed."""
        return {"version": version("strop")}

    text = {"schema": {"type": "string"}}
    kinds = {"text/plain": text, "application/openmetrics-text": text}

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response, responses={200: {"content": kinds}})
    def metrics(request: Request) -> Response:
        """OpenMetrics, with exemplars, for scrapers that accept it; the text format for all others.

        Not a coroutine: writing many series takes a while, and requests must not wait for it.
        """
        body, kind = service.metrics.exposition(request.headers.get("accept"))
        return Response(body, media_type=kind)

    return routes


def readiness(service: Service) -> Ready:
    """The roles whose engines are ready; `HttpError` 503 if one is not, with the reason in the log only."""
    states = {role: engine.health() for role, engine in service.engines.items()}
    for role, state in states.items():
        if not state.ready:
            log.warning("the engine of role %s is not ready: %s", role, state.detail)
            raise HttpError(
                503,
                f"the engine of role '{role}' is not ready",
                kind=SERVER,
                code="engine_unavailable",
                headers=retry_headers(5.0),
            )
    return {"status": "ok", "engines": list(states)}
