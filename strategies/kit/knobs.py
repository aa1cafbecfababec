"""Knobs: the keyword parameters of a strategy as a strict pydantic model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import to_json

from strop.strategies.kit.errors import BadRequest

RESERVED = frozenset({"strategy", "budget", "trace", "stream_trace", "tokens", "preset", "train", "store"})
"""Keys of the request's `strop` object that are not knobs, so no strategy may use them as a name."""


class Knobs(BaseModel):
    """Base of every knob model: frozen, and an unknown knob is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def knobs_of(fn: Callable[..., Any]) -> type[Knobs]:
    """The knob model of a strategy function: its parameters after `ctx` and `question`.

    Every knob needs an annotation and a default; the annotation's `Field` carries bounds and description.
    """
    hints = get_type_hints(fn, include_extras=True)
    parameters = list(inspect.signature(fn).parameters.values())[2:]
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name in RESERVED or parameter.default is inspect.Parameter.empty:
            raise TypeError(f"{fn.__name__}: knob '{parameter.name}' is a reserved word or has no default")
        fields[parameter.name] = (hints[parameter.name], parameter.default)
    return create_model(f"{fn.__name__}_knobs", __base__=Knobs, **fields)


def check(model: type[Knobs], values: dict[str, Any], strategy: str) -> dict[str, Any]:
    """Validated knob values with defaults filled in; a `BadRequest` naming the first wrong knob otherwise.

    Types are those of JSON: "4" is not 4, and 1 is not true.
    """
    try:
        return model.model_validate_json(to_json(values), strict=True).model_dump()
    except ValidationError as invalid:
        first = invalid.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "strop"
        known = ", ".join(model.model_fields) or "none"
        hint = f"'{strategy}' has no such knob; it has: {known}" if first["type"] == "extra_forbidden" else first["msg"]
        raise BadRequest(f"strop.{name}: {hint}", param=f"strop.{name}", code="invalid_knob") from invalid
