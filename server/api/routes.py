"""The HTTP surface in one place: which routers, which error handlers, which layers around them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from strop.server.api import chat, completions, documents, errors, health, models, reference, responses, strategies
from strop.server.api.auth import Authentication
from strop.server.api.edge import Edge
from strop.server.api.wire.chat import ChatRequest
from strop.server.api.wire.responses import ResponsesRequest
from strop.server.api.wire.text import CompletionRequest
from strop.server.keys import Keyring
from strop.server.service import Service

EXPOSED = [
    "x-request-id",
    "x-strop-strategy",
    "x-strop-trace-id",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "openai-processing-ms",
    "retry-after",
]


def install(app: FastAPI, service: Service) -> None:
    """Give `app` every route of this server."""
    for module in (chat, completions, responses, models, strategies, health):
        app.include_router(module.router(service))
    app.include_router(reference.router())
    errors.install(app)
    documents.install(app, service.settings, [ChatRequest, CompletionRequest, ResponsesRequest])
    app.add_middleware(
        Authentication, keyring=Keyring.of(service.settings), metrics_public=service.settings.metrics_public
    )
    if service.settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.allowed_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    app.add_middleware(Edge, metrics=service.metrics, quotas=service.quotas)
