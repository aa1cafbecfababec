"""From pydantic's validation errors to one OpenAI error: which parameter, what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from strop.strategies.kit.errors import BadRequest

UNSUPPORTED_PARTS = ("image_url", "input_image", "input_audio", "audio", "file", "video_url", "audio_url")


class Wire(BaseModel):
    """Base of request models: no coercion of types, no NaN, unknown fields left alone."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore", frozen=True)


def whole(value: object) -> object:
    """JSON does not tell 4.0 from 4, and neither do JSON schemas."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], raw: dict[str, Any], *, prefix: str = "") -> M:
    """`raw` as a model; a `BadRequest` about the first wrong parameter otherwise."""
    try:
        return model.model_validate(raw)
    except ValidationError as invalid:
        raise _bad_request(invalid, raw, prefix) from invalid


def _bad_request(invalid: ValidationError, raw: dict[str, Any], prefix: str) -> BadRequest:
    errors = invalid.errors(include_url=False, include_context=False)
    same = [error for error in errors if error["loc"][:1] == errors[0]["loc"][:1]]
    # A union reports every alternative; the one that got furthest is the one the client meant.
    error = max(same, key=lambda e: len(_path(e["loc"], raw, e["type"])))
    kind, path = error["type"], prefix + _dotted(_path(error["loc"], raw, error["type"]))
    if kind == "missing":
        return BadRequest(f"missing required parameter: '{path}'", param=path, code="missing_required_parameter")
    if kind == "literal_error" and path.endswith(".type") and error["input"] in UNSUPPORTED_PARTS:
        return BadRequest(
            f"'{path}': content of type '{error['input']}' is not supported, only text is",
            param=path,
            code="unsupported_parameter",
        )
    if kind == "extra_forbidden":
        return BadRequest(f"unknown parameter: '{path}'", param=path, code="unknown_parameter")
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    return BadRequest(f"invalid value for '{path}': {error['msg']}", param=path or None, code=code)


def _path(loc: Sequence[int | str], raw: object, kind: str) -> list[int | str]:
    """The part of a pydantic location that exists in the request: the names of union branches are dropped."""
    found: list[int | str] = []
    here: Any = raw
    for part in loc:
        inside = part < len(here) if isinstance(part, int) and isinstance(here, list) else False
        if inside or (isinstance(here, dict) and part in here):
            here = here[part]
            found.append(part)
    if kind == "missing" and loc:
        found.append(loc[-1])
    if kind.startswith("union_tag"):
        found.append("role" if found[:1] == ["messages"] else "type")
    return found


def _dotted(path: Sequence[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
