"""The application: `build(settings)` puts the service and the HTTP surface together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from strop.server.api import routes
from strop.server.engine import catalogue
from strop.server.engine.base import Engine
from strop.server.observe.metrics import Metrics
from strop.server.service import Service
from strop.server.settings import Settings
from strop.strategies import discover


def build(settings: Settings, engines: Mapping[str, Engine] | None = None) -> FastAPI:
    """An app that loads its engines when it starts. `engines` (role to engine) replaces those of the settings."""
    metrics = Metrics(CollectorRegistry())
    service = Service(settings, engines or catalogue.engines(settings), discover(), metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            metrics.watch(service)
            metrics.declare(models=service.model_names(), tenants=["default", *(key.tenant for key in settings.keys)])
            yield

    app = FastAPI(
        title="strop",
        summary="Inference-time refinement behind the OpenAI API",
        lifespan=lifespan,
        root_path=settings.root_path,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    routes.install(app, service)
    return app
