"""Tools, tool choice and response formats, and the limits on the JSON schemas inside them."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal, TypeGuard

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import Field
from pydantic_core import from_json, to_json

from strop.server.api.body import flaw
from strop.server.api.wire.invalid import Wire
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.types import Format, Tool, ToolChoice

MAX_SCHEMA_BYTES = 128 * 2**10

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Object = dict[str, Any]


class FunctionSpec(Wire):
    """A function the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: Object | None = Field(None, description="JSON schema of the arguments; none: no arguments")
    strict: bool | None = None


class ToolSpec(Wire):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: FunctionSpec


class Named(Wire):
    """The name of a function."""

    name: FunctionName


class NamedTool(Wire):
    """A tool by its name."""

    type: Literal["function"]
    function: Named


class AllowedTools(Wire):
    """A part of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=128, fail_fast=True)]


class AllowedToolsChoice(Wire):
    """Restrict the tools of this turn."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


WireToolChoice = (
    Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedToolsChoice, Field(discriminator="type")]
)
WireFunctionChoice = Literal["none", "auto"] | Named


class JsonSchema(Wire):
    """The schema an answer must satisfy."""

    name: FunctionName
    description: str | None = None
    schema_: Object | None = Field(None, alias="schema")
    strict: bool | None = None


class TextFormat(Wire):
    """No constraint."""

    type: Literal["text"]


class JsonObjectFormat(Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Wire):
    """JSON that satisfies a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


WireFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def tools_of(specs: list[FunctionSpec], param: str) -> tuple[Tool, ...]:
    """The kit's tools; names must differ and parameters must be JSON schemas of objects."""
    made: dict[str, Tool] = {}
    for i, spec in enumerate(specs):
        where = f"{param}[{i}].function" if param == "tools" else f"{param}[{i}]"
        if spec.name in made:
            raise BadRequest(f"two tools are called '{spec.name}'", param=f"{where}.name")
        check_schema(spec.parameters, f"{where}.parameters")
        made[spec.name] = Tool(spec.name, spec.description or "", spec.parameters or {}, bool(spec.strict))
    return tuple(made.values())


def choose(choice: WireToolChoice | None, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools that may be called, and whether one must be."""
    match choice:
        case None | "auto":
            return tools, ToolChoice("auto")
        case "none":
            return tools, ToolChoice("none")
        case "required":
            _known([], tools, any_of="required")
            return tools, ToolChoice("required")
        case NamedTool():
            _known([choice.function.name], tools)
            return tools, ToolChoice("named", choice.function.name)
        case AllowedToolsChoice(allowed_tools=allowed):
            names = [tool.function.name for tool in allowed.tools]
            _known(names, tools)
            return tuple(t for t in tools if t.name in names), ToolChoice(allowed.mode)


def named(choice: WireFunctionChoice | None) -> WireToolChoice | None:
    """`function_call`, the older form of `tool_choice`."""
    if isinstance(choice, Named):
        return NamedTool(type="function", function=choice)
    return choice


def _known(names: list[str], tools: tuple[Tool, ...], any_of: str | None = None) -> None:
    if not tools:
        raise BadRequest(f"tool_choice '{any_of or names[0]}' needs tools", param="tool_choice")
    for name in names:
        if not any(tool.name == name for tool in tools):
            raise BadRequest(f"tool_choice names '{name}', which is not among the tools", param="tool_choice")


def format_of(wire: WireFormat | None) -> Format:
    """The kit's format. A schema format without a schema accepts any JSON object."""
    match wire:
        case JsonSchemaFormat(json_schema=spec):
            if spec.schema_ is None:
                return Format("json_object", spec.name)
            check_schema(spec.schema_, "response_format.json_schema.schema")
            return Format("json_schema", spec.name, spec.schema_, bool(spec.strict))
        case JsonObjectFormat():
            return Format("json_object")
        case _:
            return Format()


def check_schema(schema: Object | None, param: str) -> None:
    """Refuse what is not a JSON schema, what refers to other documents, and what is too large or too deep."""
    if not schema:
        return
    why = flaw(schema)
    text = b"" if why else to_json(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        why = f"is larger than {MAX_SCHEMA_BYTES} bytes"
    why = why or _schema_flaw(text)
    if why:
        raise BadRequest(f"'{param}' {why}", param=param, code="invalid_schema")


@lru_cache(maxsize=256)
def _schema_flaw(text: bytes) -> str | None:
    """What is wrong with a JSON schema, given as JSON text. Clients send the same few schemas over and over."""
    schema = from_json(text)
    if _points_outside(schema):
        return "refers to another document; only references that start with '#' are followed"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as wrong:
        return f"is not a JSON schema: {wrong.message[:200]}"
    except RecursionError:
        return "is nested too deep"
    return None


def _points_outside(value: object) -> bool:
    if _is_list(value):
        return any(_points_outside(item) for item in value)
    if not isinstance(value, dict):
        return False
    reference = value.get("$ref", "#")
    return (isinstance(reference, str) and not reference.startswith("#")) or any(map(_points_outside, value.values()))


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)
