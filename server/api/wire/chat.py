"""The body of a chat request: every property OpenAI documents, the sampling extras of vLLM, and the `strop` object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from strop.server.api.wire.invalid import Wire, validated, whole
from strop.server.api.wire.messages import WireMessage, turns
from strop.server.api.wire.strop import StropOptions
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
from strop.strategies.kit.types import Chat, Sampling

INT32 = 2**31 - 1
INT64 = 2**63 - 1

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]
Natural = Annotated[int, Field(ge=0, le=INT32), BeforeValidator(whole)]
Count = Annotated[int, Field(ge=1, le=INT32), BeforeValidator(whole)]

REFUSED: Mapping[str, tuple[object, ...]] = {
    "web_search_options": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "structured_outputs": (None,),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "documents": (None, []),
    "continue_final_message": (None, False),
    "add_generation_prompt": (None, True),
    "echo": (None, False),
    "best_of": (None, 1),
    "use_beam_search": (None, False),
    "prompt_logprobs": (None,),
    "allowed_token_ids": (None,),
    "bad_words": (None, []),
    "logits_processors": (None, []),
    "truncate_prompt_tokens": (None,),
    "return_tokens_as_token_ids": (None, False),
}
"""Fields that would change the answer and are not implemented, with the values that mean "not asked for"."""


class StreamOptions(Wire):
    """What to add to a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class ChatRequest(Wire):
    """POST /v1/chat/completions. Unknown fields are tolerated; null always means "not given"."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    messages: Annotated[list[WireMessage], Field(min_length=1, fail_fast=True)]

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: Annotated[int, Field(ge=-1, le=INT32), BeforeValidator(whole)] | None = Field(
        None, description="0 and -1: off"
    )
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = Field(None, description="wins over max_tokens")
    min_tokens: Natural | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[Natural], Field(max_length=128, fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    seed: Annotated[int, Field(ge=-INT64 - 1, le=INT64), BeforeValidator(whole)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1024, json_schema_extra={"additionalProperties": False}),
        ]
        | None
    ) = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), BeforeValidator(whole)] | None = None
    n: Annotated[int, Field(ge=1, le=128), BeforeValidator(whole)] | None = None

    tools: Annotated[list[ToolSpec], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: WireToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionSpec], Field(max_length=128, fail_fast=True)] | None = None
    function_call: WireFunctionChoice | None = None
    response_format: WireFormat | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: Effort | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    strop: StropOptions | None = None

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
    user: str | None = None
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
    refuse(raw)
    messages = raw.get("messages")
    if isinstance(messages, list) and len(messages) > max_messages:
        raise BadRequest(f"messages has {len(messages)} turns, at most {max_messages} are read", param="messages")
    wire = validated(ChatRequest, raw)
    if wire.n is not None and wire.n > max_choices:
        raise BadRequest(f"n is {wire.n}, but this server returns at most {max_choices} choices", param="n")
    if wire.top_logprobs and not wire.logprobs:
        raise BadRequest("top_logprobs needs logprobs", param="top_logprobs")
    if wire.modalities and "audio" in wire.modalities:
        raise BadRequest("this server writes text only", param="modalities", code="unsupported_parameter")
    return wire


def refuse(raw: Mapping[str, Any]) -> None:
    """Raise for fields that cannot be honoured and would change the answer; silence would be a lie."""
    for name in REFUSED.keys() & raw.keys():
        if not any(raw[name] is neutral or raw[name] == neutral for neutral in REFUSED[name]):
            raise BadRequest(f"'{name}' is not supported", param=name, code="unsupported_parameter")


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
        sampling=_sampling(wire),
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=wire.parallel_tool_calls is not False and not old,
        format=format_of(wire.response_format),
    )


def _sampling(wire: ChatRequest) -> Sampling:
    longest = wire.max_completion_tokens or wire.max_tokens
    shortest = wire.min_tokens or 0
    if longest is not None and shortest > longest:
        raise BadRequest(f"min_tokens is {shortest}, more than the limit of {longest}", param="min_tokens")
    return Sampling(
        temperature=wire.temperature,
        top_p=wire.top_p,
        top_k=wire.top_k if wire.top_k and wire.top_k > 0 else None,
        min_p=wire.min_p or None,
        presence_penalty=wire.presence_penalty or 0.0,
        frequency_penalty=wire.frequency_penalty or 0.0,
        repetition_penalty=None if wire.repetition_penalty == 1 else wire.repetition_penalty,
        max_tokens=longest,
        min_tokens=shortest,
        stop=(wire.stop,) if isinstance(wire.stop, str) else tuple(wire.stop or ()),
        stop_token_ids=tuple(wire.stop_token_ids or ()),
        ignore_eos=bool(wire.ignore_eos),
        seed=wire.seed,
        logit_bias=tuple((int(token), bias) for token, bias in (wire.logit_bias or {}).items() if bias),
        # The chosen token's logprob comes with the best alternative, so asking for it means asking for one.
        top_logprobs=max(1, wire.top_logprobs or 0) if wire.logprobs else 0,
    )
