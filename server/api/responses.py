"""POST /v1/responses: the part of OpenAI's Responses API that needs no storage. Text, functions, formats, streams."""

from __future__ import annotations

from secrets import token_hex
from time import time
from typing import Any

from fastapi import APIRouter, Request, Response

from strop.server.api import documents
from strop.server.api.answer import WholeAnswer
from strop.server.api.body import read_json
from strop.server.api.chat import retries
from strop.server.api.ledger import Ledger
from strop.server.api.principal import Asker
from strop.server.api.responses_stream import ResponsesScript
from strop.server.api.select import HEADER, Wish, select
from strop.server.api.stream import StreamedAnswer
from strop.server.api.wire.response_object import ResponseObject, ending, usage_of
from strop.server.api.wire.responses import ResponsesRequest, chat_of, parse
from strop.server.service import Ask, Principal, Service
from strop.strategies.kit.events import Outcome


def router(service: Service) -> APIRouter:
    """The Responses routes."""
    routes = APIRouter(tags=["responses"])
    described = documents.endpoint(ResponsesRequest, dict[str, Any], "text/event-stream")

    @routes.post("/v1/responses", summary="Answer a conversation, item by item", **described)
    async def create(request: Request, principal: Asker) -> Response:
        """Choose a strategy with `strop`, a header, the model id or `reasoning.effort`."""
        return await _answer(service, request, principal, None)

    @routes.post("/v1/strategies/{strategy}/responses", summary="The same with one strategy", **described)
    async def create_with(strategy: str, request: Request, principal: Asker) -> Response:
        """The path names a strategy or a preset."""
        return await _answer(service, request, principal, strategy)

    return routes


async def _answer(service: Service, request: Request, principal: Principal, path: str | None) -> Response:
    raw = await read_json(request, service.settings.max_body_bytes)
    wire = parse(raw, max_messages=service.settings.max_messages)
    wish = Wish(wire.model, wire.strop, path, request.headers.get(HEADER), wire.effort)
    ask = Ask(
        id=f"resp_{token_hex(12)}",
        chat=chat_of(wire),
        selection=select(service, wish, principal),
        model=wire.model,
        stream=bool(wire.stream),
        principal=principal,
        metadata=wire.metadata or {},
        retry=retries(request),
    )
    made = ResponseObject(wire, ask.id, int(time()))
    ledger = Ledger(ask)
    if wire.stream:
        return StreamedAnswer(service, ledger, ResponsesScript(ledger, made))

    def render(outcome: Outcome) -> dict[str, Any]:
        draft = outcome.answers[0]
        usage = usage_of(ledger.usage(outcome))
        body = made.body("completed", made.items(draft, draft.reasoning), usage=usage, strop=ledger.strop(outcome))
        return body | ending(draft)

    return WholeAnswer(service, ledger, render)
