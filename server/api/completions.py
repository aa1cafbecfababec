"""POST /v1/completions: raw prompts without a chat template, and the same below /v1/strategies/{strategy}."""

from __future__ import annotations

from secrets import token_hex
from time import time
from typing import Any

from fastapi import APIRouter, Request, Response

from strop.server.api import documents
from strop.server.api.answer import WholeAnswer
from strop.server.api.batch import Batch
from strop.server.api.body import read_json
from strop.server.api.chat import retries
from strop.server.api.completions_stream import TextScript
from strop.server.api.echo import Echo, joined
from strop.server.api.principal import Asker
from strop.server.api.select import HEADER, Wish, select
from strop.server.api.stream import StreamedAnswer
from strop.server.api.wire.text import (
    CompletionRequest,
    TextChoice,
    TextCompletion,
    chat_of,
    finish_of,
    logprobs_of,
    parse,
    prompts_of,
)
from strop.server.service import Ask, Principal, Service
from strop.strategies.kit.events import Outcome
from strop.strategies.kit.types import Draft


def router(service: Service) -> APIRouter:
    """The text completion routes."""
    routes = APIRouter(tags=["completions"])
    described = documents.endpoint(CompletionRequest, TextCompletion, "text/event-stream")

    @routes.post("/v1/completions", summary="Continue a raw prompt, or several", **described)
    async def complete(request: Request, principal: Asker) -> Response:
        """Choose a strategy with `strop`, a header or the model id."""
        return await _answer(service, request, principal, None)

    @routes.post("/v1/strategies/{strategy}/completions", summary="The same with one strategy", **described)
    async def complete_with(strategy: str, request: Request, principal: Asker) -> Response:
        """The path names a strategy or a preset."""
        return await _answer(service, request, principal, strategy)

    return routes


async def _answer(service: Service, request: Request, principal: Principal, path: str | None) -> Response:
    raw = await read_json(request, service.settings.max_body_bytes)
    wire = parse(raw, max_choices=service.settings.max_choices)
    echoes = [Echo(prompt if wire.echo else "", wire.logprobs) for prompt in prompts_of(wire)]
    batch = Batch(asks_of(service, request, principal, wire, path, echoes), echoes)
    head: TextCompletion = {
        "id": batch.ask.id,
        "object": "text_completion",
        "created": int(time()),
        "model": wire.model,
        "choices": [],
    }
    if wire.stream:
        return StreamedAnswer(service, batch, TextScript(batch, echoes, wire, head))

    def render(outcome: Outcome) -> dict[str, Any]:
        choices = [
            choice(i * batch.each + j, draft, wire, echo)
            for i, (echo, each) in enumerate(zip(echoes, batch.outcomes, strict=True))
            for j, draft in enumerate(each.answers)
        ]
        return {**head, "choices": choices, "usage": batch.usage(outcome), "strop": batch.strop(outcome)}

    return WholeAnswer(service, batch, render)


def asks_of(
    service: Service,
    request: Request,
    principal: Principal,
    wire: CompletionRequest,
    path: str | None,
    echoes: list[Echo],
) -> list[Ask]:
    """One request per prompt; with several, each has an id of its own in the trace log."""
    selection = select(service, Wish(wire.model, wire.strop, path, request.headers.get(HEADER)), principal)
    id_, prompts = f"cmpl-{token_hex(12)}", prompts_of(wire)
    return [
        Ask(
            id=id_ if i == 0 else f"{id_}-{i}",
            chat=chat_of(wire, prompt),
            selection=echo.before(selection, only=wire.max_tokens == 0) if wire.echo else selection,
            model=wire.model,
            choices=wire.n or 1,
            stream=bool(wire.stream),
            principal=principal,
            metadata=wire.metadata or {},
            retry=retries(request),
        )
        for i, (prompt, echo) in enumerate(zip(prompts, echoes, strict=True))
    ]


def choice(index: int, draft: Draft, wire: CompletionRequest, echo: Echo) -> TextChoice:
    """A draft as a choice, behind its prompt if that is to be repeated."""
    before = echo.text
    return {
        "index": index,
        "text": before + draft.text,
        "logprobs": joined(echo.logprobs(), logprobs_of(draft.tokens, wire.logprobs), len(before)),
        "finish_reason": finish_of(draft),
    }
