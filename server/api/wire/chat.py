"""The body of a chat request: every property OpenAI documents, the sampling extras of vLLM, and the `strop` object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from strop.server.api.wire.invalid import validated, whole
from strop.server.api.wire.messages import WireMessage, turns
from strop.server.api.wire.sampling import (
    UNSUPPORTED,
    Count,
    SamplingRequest,
    StreamOptions,
    check_choices,
    refuse,
    sampling_of,
)
from strop.server.api.wire.tools import (
    FunctionSpec,
    Object,
    ToolSpec,
    WireFormat,
    WireFunctionChoice,
    WireToolChoice,
    choose,
    format_of,
    named,
    tools_of,
)
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.types import Chat

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

REFUSED: Mapping[str, tuple[object, ...]] = {
    **UNSUPPORTED,
    "web_search_options": (None,),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "documents": (None, []),
    "continue_final_message": (None, False),
    "add_generation_prompt": (None, True),
    "echo": (None, False),
    "best_of": (None, 1),
}
"""Fields that would change the answer and are not implemented, with the values that mean "not asked for"."""


class ChatRequest(SamplingRequest):
    """POST /v1/chat/completions. Unknown fields are tolerated; null always means "not given"."""

    messages: Annotated[list[WireMessage], Field(min_length=1, fail_fast=True)]

    max_tokens: Count | None = None
    max_completion_tokens: Count | None = Field(None, description="wins over max_tokens")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), BeforeValidator(whole)] | None = None

    tools: Annotated[list[ToolSpec], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: WireToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionSpec], Field(max_length=128, fail_fast=True)] | None = None
    function_call: WireFunctionChoice | None = None
    response_format: WireFormat | None = None

    reasoning_effort: Effort | None = None

    modalities: list[Literal["text", "audio"]] | None = None
    audio: Object | None = None
    moderation: Any = None
    prediction: Object | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Object | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    verbosity: str | None = None
    web_search_options: None = None


@dataclass(frozen=True, slots=True)
class Style:
    """How the client wants its answer written down."""

    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    functions: bool = False
    service_tier: bool = False


def parse(raw: dict[str, Any], *, max_messages: int, max_choices: int) -> ChatRequest:
    """A validated request; `BadRequest` about the first thing that is wrong or cannot be honoured."""
    refuse(raw, REFUSED)
    messages = raw.get("messages")
    if isinstance(messages, list) and len(messages) > max_messages:
        raise BadRequest(f"messages has {len(messages)} turns, at most {max_messages} are read", param="messages")
    wire = validated(ChatRequest, raw)
    check_choices(wire.n, max_choices)
    if wire.top_logprobs and not wire.logprobs:
        raise BadRequest("top_logprobs needs logprobs", param="top_logprobs")
    if wire.modalities and "audio" in wire.modalities:
        raise BadRequest("this server writes text only", param="modalities", code="unsupported_parameter")
    return wire


def style_of(wire: ChatRequest) -> Style:
    """How to write the answer down."""
    streaming = wire.stream_options or StreamOptions()
    return Style(
        stream=bool(wire.stream),
        include_usage=bool(streaming.include_usage),
        continuous_usage=bool(streaming.continuous_usage_stats),
        logprobs=bool(wire.logprobs),
        top_logprobs=wire.top_logprobs or 0,
        functions=bool(wire.functions) and not wire.tools,
        service_tier=wire.service_tier is not None,
    )


def chat_of(wire: ChatRequest) -> Chat:
    """The conversation in the kit's words."""
    if wire.tools and wire.functions:
        raise BadRequest("give tools or functions, not both", param="functions")
    old = wire.functions or []
    tools = tools_of(old, "functions") if old else tools_of([tool.function for tool in wire.tools or ()], "tools")
    choice = wire.tool_choice if wire.tool_choice is not None else named(wire.function_call)
    tools, tool_choice = choose(choice, tools)
    return Chat(
        messages=turns(wire.messages),
        sampling=sampling_of(
            wire, wire.max_completion_tokens or wire.max_tokens, (wire.top_logprobs or 0) if wire.logprobs else None
        ),
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=wire.parallel_tool_calls is not False and not old,
        format=format_of(wire.response_format),
    )
