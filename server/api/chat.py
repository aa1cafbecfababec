"""POST /v1/chat/completions, and the same below /v1/strategies/{strategy} for clients that can only set a base URL."""

from __future__ import annotations

from secrets import token_hex
from time import time
from typing import Any

from fastapi import APIRouter, Request, Response

from strop.server.api import documents
from strop.server.api.answer import WholeAnswer
from strop.server.api.body import read_json
from strop.server.api.chat_stream import ChatScript
from strop.server.api.ledger import Ledger
from strop.server.api.principal import Asker
from strop.server.api.select import HEADER, Wish, select
from strop.server.api.stream import StreamedAnswer
from strop.server.api.wire.chat import ChatRequest, Style, chat_of, parse, style_of
from strop.server.api.wire.completion import ChatCompletion, choice
from strop.server.service import Ask, Principal, Service
from strop.strategies.kit.events import Outcome

MAX_RETRIES_COUNTED = 100


def router(service: Service) -> APIRouter:
    """The chat routes."""
    routes = APIRouter(tags=["chat"])
    described = documents.endpoint(ChatRequest, ChatCompletion, "text/event-stream")

    @routes.post("/v1/chat/completions", summary="Answer a conversation", **described)
    async def complete(request: Request, principal: Asker) -> Response:
        """Choose a strategy with `strop`, a header, the model id or `reasoning_effort`."""
        return await _answer(service, request, principal, None)

    @routes.post(
        "/v1/strategies/{strategy}/chat/completions", summary="Answer a conversation with one strategy", **described
    )
    async def complete_with(strategy: str, request: Request, principal: Asker) -> Response:
        """The path names a strategy or a preset."""
        return await _answer(service, request, principal, strategy)

    return routes


async def _answer(service: Service, request: Request, principal: Principal, path: str | None) -> Response:
    """Everything that can be refused is refused here, before any header is sent."""
    settings = service.settings
    raw = await read_json(request, settings.max_body_bytes)
    wire = parse(raw, max_messages=settings.max_messages, max_choices=settings.max_choices)
    style = style_of(wire)
    ask = ask_of(service, request, principal, wire, path)
    created = int(time())
    ledger = Ledger(ask)
    if style.stream:
        return StreamedAnswer(service, ledger, ChatScript(ledger, style, created))

    def render(outcome: Outcome) -> dict[str, Any]:
        return {**completion(outcome, ledger, style, created)}

    return WholeAnswer(service, ledger, render)


def ask_of(service: Service, request: Request, principal: Principal, wire: ChatRequest, path: str | None) -> Ask:
    """The request in the service's words."""
    wish = Wish(wire.model, wire.strop, path, request.headers.get(HEADER), wire.reasoning_effort)
    return Ask(
        id=f"chatcmpl-{token_hex(12)}",
        chat=chat_of(wire),
        selection=select(service, wish, principal),
        model=wire.model,
        choices=wire.n or 1,
        stream=bool(wire.stream),
        principal=principal,
        metadata=wire.metadata or {},
        retry=retries(request),
    )


def retries(request: Request) -> int:
    """How often the client's SDK has already tried this request."""
    count = request.headers.get("x-stainless-retry-count", "")
    return min(int(count), MAX_RETRIES_COUNTED) if count.isascii() and count.isdigit() and len(count) < 4 else 0


def completion(outcome: Outcome, ledger: Ledger, style: Style, created: int) -> ChatCompletion:
    """The whole response body."""
    body: ChatCompletion = {
        "id": ledger.ask.id,
        "object": "chat.completion",
        "created": created,
        "model": ledger.ask.model,
        "choices": [choice(i, draft, style) for i, draft in enumerate(outcome.answers)],
        "usage": ledger.usage(outcome),
        "strop": ledger.strop(outcome),
    }
    if style.service_tier:
        body["service_tier"] = "default"
    return body
