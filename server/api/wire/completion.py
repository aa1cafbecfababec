"""Chat completions as OpenAI writes them, whole and in chunks. Optional fields are left out when they are empty."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from strop.server.api.ledger import Usage
from strop.server.api.wire.chat import Style
from strop.server.api.wire.strop import StropAnswer
from strop.strategies.kit.types import Draft, Finish, Tokens, ToolCall

WireFinish = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]

FINISH: dict[Finish, WireFinish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "abort": "length",
}

LEAST_LOGPROB = -9999.0
"""OpenAI's word for "very unlikely"; JSON has no minus infinity."""


class TopLogprob(TypedDict):
    """An alternative for one token."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """One token of the answer."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(TypedDict):
    """The tokens of one choice."""

    content: list[TokenLogprob] | None
    refusal: list[TokenLogprob] | None


class WireFunction(TypedDict):
    """What to call, with arguments as JSON text."""

    name: str
    arguments: str


class WireCall(TypedDict):
    """One tool call."""

    id: str
    type: Literal["function"]
    function: WireFunction


class WireCallDelta(WireCall):
    """One tool call of a chunk; sent whole."""

    index: int


class WireMessage(TypedDict):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[WireCall]]
    function_call: NotRequired[WireFunction]


class Choice(TypedDict):
    """One answer."""

    index: int
    message: WireMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: WireFinish


class ChatCompletion(TypedDict):
    """The response of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    service_tier: NotRequired[Literal["default"]]
    strop: StropAnswer


class WireDelta(TypedDict, total=False):
    """What a chunk adds to one choice. `reasoning` repeats `reasoning_content` for clients that read that name."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str
    reasoning: str
    tool_calls: list[WireCallDelta]
    function_call: WireFunction


class ChunkChoice(TypedDict):
    """One choice of a chunk."""

    index: int
    delta: WireDelta
    logprobs: NotRequired[ChoiceLogprobs | None]
    finish_reason: WireFinish | None


class ChatCompletionChunk(TypedDict):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[Usage]
    service_tier: NotRequired[Literal["default"]]
    strop: NotRequired[dict[str, object] | StropAnswer]


def choice(index: int, draft: Draft, style: Style) -> Choice:
    """A draft as a choice."""
    message: WireMessage = {"role": "assistant", "content": draft.text, "refusal": None}
    if draft.reasoning:
        message["reasoning_content"] = draft.reasoning
    if draft.tool_calls:
        message["content"] = draft.text or None
        if style.functions:
            message["function_call"] = function_of(draft.tool_calls[0])
        else:
            message["tool_calls"] = [call_of(call) for call in draft.tool_calls]
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs_of(draft.tokens, style),
        "finish_reason": finish_of(draft, style),
    }


def finish_of(draft: Draft, style: Style) -> WireFinish:
    """Why the draft ended, in OpenAI's words; an aborted draft is one that was cut short."""
    if style.functions and draft.tool_calls:
        return "function_call"
    return FINISH[draft.finish]


def function_of(call: ToolCall) -> WireFunction:
    """The function of a call."""
    return {"name": call.name, "arguments": call.arguments}


def call_of(call: ToolCall) -> WireCall:
    """A tool call."""
    return {"id": call.id, "type": "function", "function": function_of(call)}


def logprobs_of(tokens: Tokens, style: Style) -> ChoiceLogprobs | None:
    """Logprobs if the client asked for them and the engine reported them for this text."""
    if not style.logprobs or not tokens.logprobs or not tokens.texts:
        return None
    content: list[TokenLogprob] = []
    for i, (text, logprob) in enumerate(zip(tokens.texts, tokens.logprobs, strict=True)):
        best = tokens.top[i][: style.top_logprobs] if tokens.top else ()
        tops = [_token(other, its) for _, other, its in best]
        content.append({**_token(text, logprob), "top_logprobs": tops})
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float) -> TopLogprob:
    return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(text.encode("utf-8", "replace"))}
