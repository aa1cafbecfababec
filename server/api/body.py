"""Request bodies: read with a limit, parsed strictly. NaN, lone surrogates and absurd nesting never get past here."""

from __future__ import annotations

import math
from typing import Any

from fastapi import Request
from pydantic_core import from_json

from strop.server.api.errors import HttpError

MAX_DEPTH = 64


async def read_body(request: Request, limit: int) -> bytes:
    """The body; 413 when it has more than `limit` bytes, declared or sent."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The body as a JSON object.

    Only `application/json` is read: a page of another site can send anything else to this machine without asking.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise HttpError(415, "send the body as content-type application/json", code="unsupported_media_type")
    return parse_object(await read_body(request, limit))


def parse_object(raw: bytes | str) -> dict[str, Any]:
    """One JSON object; 400 for anything else."""
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as wrong:
        raise HttpError(400, f"the body is not valid JSON: {wrong}", code="invalid_json") from wrong
    if not isinstance(value, dict):
        raise HttpError(400, "the body must be a JSON object", code="invalid_json")
    return value


def flaw(value: object, *, depth: int = MAX_DEPTH) -> str | None:
    """Why a JSON value is not fit to be passed on: nested too deep, or a number that is no number. None if it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return "holds a number that is too large"
    if isinstance(value, dict | list):
        if depth == 0:
            return f"is nested deeper than {MAX_DEPTH} levels"
        inner = value.values() if isinstance(value, dict) else value
        return next((found for item in inner if (found := flaw(item, depth=depth - 1))), None)
    return None


def _too_large(limit: int) -> HttpError:
    return HttpError(
        413,
        f"the body is larger than the {limit} bytes this server reads",
        code="request_too_large",
        headers={"connection": "close"},
    )
