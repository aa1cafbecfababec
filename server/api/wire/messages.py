"""Messages of a conversation, and how they become the kit's turns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from strop.server.api.wire.invalid import Wire
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.types import Message, ToolCall

Text = Annotated[str, Field(max_length=8 * 2**20)]


class TextPart(Wire):
    """One part of a content list. Only text is supported."""

    type: Literal["text"]
    text: Text


class RefusalPart(Wire):
    """A refusal of an earlier assistant turn."""

    type: Literal["refusal"]
    refusal: Text


Parts = Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
AssistantParts = Annotated[list[TextPart | RefusalPart], Field(min_length=1, fail_fast=True)]


class CalledFunction(Wire):
    """The function of an earlier call, and its arguments as JSON text."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: Text


class EarlierCall(Wire):
    """One tool call of an earlier assistant turn."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"]
    function: CalledFunction


class Instruction(Wire):
    """A turn of the application."""

    role: Literal["system", "developer"]
    content: Text | Parts
    name: str | None = None


class UserTurn(Wire):
    """A turn of the user."""

    role: Literal["user"]
    content: Text | Parts
    name: str | None = None


class AssistantTurn(Wire):
    """An earlier turn of the assistant; it needs content, a refusal or calls."""

    role: Literal["assistant"]
    content: Text | AssistantParts | None = None
    refusal: Text | None = None
    name: str | None = None
    tool_calls: Annotated[list[EarlierCall], Field(max_length=128, fail_fast=True)] | None = None
    function_call: CalledFunction | None = None


class ToolTurn(Wire):
    """What a tool answered."""

    role: Literal["tool"]
    content: Text | Parts
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256)]


class FunctionTurn(Wire):
    """What a function answered (the form before tools)."""

    role: Literal["function"]
    content: Text | None
    name: Annotated[str, Field(min_length=1, max_length=256)]


WireMessage = Annotated[Instruction | UserTurn | AssistantTurn | ToolTurn | FunctionTurn, Field(discriminator="role")]


def turns(messages: list[WireMessage]) -> tuple[Message, ...]:
    """The conversation in the kit's words. Functions of the old form become tools with made-up ids."""
    made: list[Message] = []
    for i, message in enumerate(messages):
        match message:
            case AssistantTurn():
                made.append(_assistant(message, i))
            case ToolTurn():
                made.append(Message("tool", _text(message.content), tool_call_id=message.tool_call_id))
            case FunctionTurn():
                made.append(_function(message, made, i))
            case _:
                made.append(Message(message.role, _text(message.content), name=message.name))
    return tuple(made)


def _text(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _assistant(message: AssistantTurn, i: int) -> Message:
    calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ())
    if message.function_call:
        calls += (ToolCall(f"call_{i}", message.function_call.name, message.function_call.arguments),)
    content = message.content if message.content is not None else message.refusal
    if content is None and not calls:
        raise BadRequest(
            f"messages[{i}] needs content or tool_calls",
            param=f"messages[{i}].content",
            code="missing_required_parameter",
        )
    if isinstance(content, list):
        content = "\n".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)
    return Message("assistant", content or "", calls, name=message.name)


def _function(message: FunctionTurn, before: list[Message], i: int) -> Message:
    called = next((c for m in reversed(before) for c in reversed(m.tool_calls) if c.name == message.name), None)
    if called is None:
        raise BadRequest(f"messages[{i}]: no earlier turn called '{message.name}'", param=f"messages[{i}].name")
    return Message("tool", message.content or "", tool_call_id=called.id, name=message.name)
