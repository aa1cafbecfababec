"""The body of a Responses request: text, function tools, formats and sampling; and how it becomes a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from strop.server.api.wire.chat import Effort
from strop.server.api.wire.invalid import Wire, validated
from strop.server.api.wire.messages import Text
from strop.server.api.wire.sampling import INT32
from strop.server.api.wire.strop import StropOptions
from strop.server.api.wire.tools import (
    AllowedTools,
    AllowedToolsChoice,
    FunctionName,
    FunctionSpec,
    Named,
    NamedTool,
    Object,
    WireToolChoice,
    check_schema,
    choose,
    tools_of,
)
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.types import Chat, Format, Message, Sampling, ToolCall

REFUSED: Mapping[str, tuple[object, ...]] = {
    "previous_response_id": (None,),
    "conversation": (None,),
    "background": (None, False),
    "prompt": (None,),
    "max_tool_calls": (None,),
    "context_management": (None, []),
    "truncation": (None, "disabled"),
}
"""Fields that need stored responses or tools of the server's own, with the values that mean "not asked for"."""


class InputText(Wire):
    """One part of an input message. Only text is supported."""

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: Text | None = None
    refusal: Text | None = None


class InputMessage(Wire):
    """A turn; `type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text | Annotated[list[InputText], Field(max_length=1024, fail_fast=True)]


class InputCall(Wire):
    """A function call of an earlier response."""

    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    name: FunctionName
    arguments: Text


class InputCallOutput(Wire):
    """What the function answered."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    output: Text | Annotated[list[InputText], Field(max_length=1024, fail_fast=True)]


class InputReasoning(Wire):
    """A reasoning item of an earlier response; it is not shown to the model again."""

    type: Literal["reasoning"]


InputItem = InputCall | InputCallOutput | InputReasoning | InputMessage


class ResponseTool(FunctionSpec):
    """A function the model may call; other kinds of tools are refused."""

    type: Literal["function"]


class NamedFunction(Named):
    """Call this function."""

    type: Literal["function"]


class AllowedFunctions(Wire):
    """Call only some of the functions."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(min_length=1, max_length=128, fail_fast=True)]


class TextOption(Wire):
    """No constraint."""

    type: Literal["text"]


class JsonObjectOption(Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaOption(Wire):
    """JSON that satisfies a schema."""

    type: Literal["json_schema"]
    name: FunctionName
    schema_: Object = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(Wire):
    """How the text must look. `verbosity` is accepted and has no effect."""

    format: Annotated[TextOption | JsonObjectOption | JsonSchemaOption, Field(discriminator="type")] | None = None
    verbosity: str | None = None


class ReasoningOptions(Wire):
    """How hard to try. `effort` chooses a preset by the server's map; mode `pro` asks for the most."""

    effort: Effort | None = None
    mode: Literal["standard", "pro"] | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesRequest(Wire):
    """POST /v1/responses. Unknown fields are tolerated; null always means "not given"."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: Text | Annotated[list[InputItem], Field(min_length=1, fail_fast=True)]
    instructions: Text | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    max_output_tokens: int | None = Field(None, ge=1, le=INT32)
    tools: Annotated[list[ResponseTool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: (
        Literal["none", "auto", "required"]
        | Annotated[NamedFunction | AllowedFunctions, Field(discriminator="type")]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    stream: bool | None = None
    stream_options: Object | None = None
    store: bool | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    strop: StropOptions | None = None

    @property
    def effort(self) -> str | None:
        """The key into the server's effort map."""
        if self.reasoning is None:
            return None
        return "max" if self.reasoning.mode == "pro" else self.reasoning.effort


def parse(raw: dict[str, Any], *, max_messages: int) -> ResponsesRequest:
    """The checked body; a `BadRequest` about the first wrong parameter."""
    for name, neutral in REFUSED.items():
        if name in raw and raw[name] not in neutral:
            raise BadRequest(f"'{name}' is not supported by this server", param=name, code="unsupported_parameter")
    tools = raw.get("tools")
    for i, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, dict) and isinstance(tool.get("type"), str) and tool["type"] != "function":
            raise BadRequest(
                f"tools of type '{tool['type'][:64]}' are not supported, only functions are",
                param=f"tools[{i}].type",
                code="unsupported_parameter",
            )
    request = validated(ResponsesRequest, raw)
    if not isinstance(request.input, str) and len(request.input) > max_messages:
        raise BadRequest(f"input has more than {max_messages} items", param="input")
    return request


def chat_of(request: ResponsesRequest) -> Chat:
    """The conversation in the kit's words."""
    tools = tools_of(list(request.tools or ()), "tools")
    tools, tool_choice = choose(_choice(request), tools)
    turns = list(_turns(request.input))
    if request.instructions:
        turns.insert(
            0, Message("developer" if any(m.role == "developer" for m in turns) else "system", request.instructions)
        )
    if not turns:
        raise BadRequest("input holds no message", param="input", code="missing_required_parameter")
    return Chat(
        messages=tuple(turns),
        sampling=Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_output_tokens,
            logprobs=wants_logprobs(request),
            top_logprobs=request.top_logprobs or 0,
        ),
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        format=_format(request.text),
    )


def wants_logprobs(request: ResponsesRequest) -> bool:
    """Whether logprobs of the text were asked for."""
    return bool(request.top_logprobs) or "message.output_text.logprobs" in (request.include or ())


def _choice(request: ResponsesRequest) -> WireToolChoice | None:
    match request.tool_choice:
        case NamedFunction(name=name):
            return NamedTool(type="function", function=Named(name=name))
        case AllowedFunctions(mode=mode, tools=tools):
            named = [NamedTool(type="function", function=Named(name=tool.name)) for tool in tools]
            return AllowedToolsChoice(type="allowed_tools", allowed_tools=AllowedTools(mode=mode, tools=named))
        case other:
            return other


def _format(options: TextOptions | None) -> Format:
    match options.format if options else None:
        case JsonSchemaOption() as wanted:
            check_schema(wanted.schema_, "text.format.schema")
            return Format("json_schema", wanted.name, wanted.schema_, bool(wanted.strict))
        case JsonObjectOption():
            return Format("json_object")
        case _:
            return Format()


def _turns(given: str | list[InputItem]) -> list[Message]:
    """Turns of the conversation; neighbouring calls of one assistant turn are put together again."""
    if isinstance(given, str):
        return [Message("user", given)]
    turns: list[Message] = []
    for item in given:
        match item:
            case InputMessage():
                turns.append(Message(item.role, _text(item.content)))
            case InputCall():
                call = ToolCall(item.call_id, item.name, item.arguments)
                last = turns[-1] if turns and turns[-1].role == "assistant" else None
                if last is not None:
                    turns[-1] = Message("assistant", last.content, (*last.tool_calls, call))
                else:
                    turns.append(Message("assistant", "", (call,)))
            case InputCallOutput():
                turns.append(Message("tool", _text(item.output), tool_call_id=item.call_id))
    return turns


def _text(content: str | list[InputText]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text if part.text is not None else part.refusal or "" for part in content)
