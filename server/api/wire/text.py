"""Text completions as OpenAI writes them (the legacy endpoint), both ways: one or several raw prompts in, texts out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from strop.server.api.ledger import Usage
from strop.server.api.wire.completion import FINISH, LEAST_LOGPROB
from strop.server.api.wire.invalid import validated, whole
from strop.server.api.wire.messages import Text
from strop.server.api.wire.sampling import (
    UNSUPPORTED,
    Natural,
    SamplingRequest,
    check_choices,
    refuse,
    sampling_of,
)
from strop.server.api.wire.strop import StropAnswer
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.types import Chat, Draft, Tokens

MOST_PROMPTS = 128
"""Prompts of one request. Each is answered by a run of its own."""

DEFAULT_LENGTH = 16
"""OpenAI's default of `max_tokens` at this endpoint."""

REFUSED: Mapping[str, tuple[object, ...]] = {
    **UNSUPPORTED,
    "suffix": (None, ""),
    "response_format": (None, {"type": "text"}),
    "prompt_embeds": (None,),
}
"""Fields that would change the answer and are not implemented, with the values that mean "not asked for"."""

Ids = Annotated[list[Natural], Field(min_length=1, fail_fast=True)]
TextFinish = Literal["stop", "length", "content_filter"]


class CompletionRequest(SamplingRequest):
    """POST /v1/completions. Unknown fields are tolerated; null always means "not given"."""

    prompt: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
    )
    max_tokens: Natural | None = Field(None, description="16 when not given; 0 with echo: score the prompt only")
    logprobs: Annotated[int, Field(ge=0, le=20), BeforeValidator(whole)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=128), BeforeValidator(whole)] | None = Field(
        None, description="1 or n; drafts to compare are a knob of a strategy"
    )


class TextLogprobs(TypedDict):
    """The tokens of one choice, column by column; null where a token has nothing before it."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(TypedDict):
    """One text. `finish_reason` is null in the chunks of a stream but the last."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: TextFinish | None


class TextCompletion(TypedDict):
    """The response of POST /v1/completions, and every event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: NotRequired[Usage]
    strop: NotRequired[dict[str, object] | StropAnswer]


def parse(raw: dict[str, Any], *, max_choices: int) -> CompletionRequest:
    """A validated request; `BadRequest` about the first thing that is wrong or cannot be honoured."""
    refuse(raw, REFUSED)
    wire = validated(CompletionRequest, raw)
    check_choices(wire.n, max_choices)
    if wire.best_of not in (None, 1, wire.n):
        raise BadRequest(
            "best_of is not supported: choose the strategy best_of_n, whose knob n says how many drafts are compared",
            param="best_of",
            code="unsupported_parameter",
        )
    if wire.max_tokens == 0 and not wire.echo:
        raise BadRequest("max_tokens of 0 needs echo", param="max_tokens")
    return wire


def prompts_of(wire: CompletionRequest) -> list[str | tuple[int, ...]]:
    """The prompts, one or several."""
    if isinstance(wire.prompt, str):
        return [wire.prompt]
    texts = [item for item in wire.prompt if isinstance(item, str)]
    ids = [tuple(item) for item in wire.prompt if isinstance(item, list)]
    return [*texts, *ids] or [tuple(item for item in wire.prompt if isinstance(item, int))]


def chat_of(wire: CompletionRequest, prompt: str | tuple[int, ...]) -> Chat:
    """One prompt in the kit's words."""
    longest = DEFAULT_LENGTH if wire.max_tokens is None else wire.max_tokens
    return Chat(prompt=prompt, sampling=sampling_of(wire, longest, wire.logprobs))


def finish_of(draft: Draft) -> TextFinish:
    """Why the text ended, in OpenAI's words."""
    match FINISH[draft.finish]:
        case "length":
            return "length"
        case "content_filter":
            return "content_filter"
        case _:
            return "stop"


def logprobs_of(tokens: Tokens, top: int | None, offset: int = 0) -> TextLogprobs | None:
    """The tokens in four columns if the client asked for logprobs and the engine reported them.

    Every entry of `top_logprobs` has the token itself and the `top` likeliest; `offset` is where the first begins.
    """
    if top is None or not tokens.logprobs or not tokens.texts:
        return None
    offsets: list[int] = []
    for text in tokens.texts:
        offsets.append(offset)
        offset += len(text)
    rows = zip(tokens.texts, tokens.logprobs, tokens.top or ((),) * len(tokens), strict=True)
    return {
        "tokens": list(tokens.texts),
        "token_logprobs": [max(value, LEAST_LOGPROB) for value in tokens.logprobs],
        "top_logprobs": [_likeliest(text, value, best[:top]) for text, value, best in rows] if top else [],
        "text_offset": offsets,
    }


def _likeliest(text: str, logprob: float, best: tuple[tuple[int, str, float], ...]) -> dict[str, float]:
    found = {other: max(value, LEAST_LOGPROB) for _, other, value in reversed(best)}
    found.setdefault(text, max(logprob, LEAST_LOGPROB))
    return found
