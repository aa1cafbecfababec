"""Upstream failures in the words of `strop.strategies.kit.errors`. Nothing here repeats a URL or a key to a client."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from strop.strategies.kit.errors import (
    BadRequest,
    ContextTooLong,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    StropError,
)

_LONGEST = 500  # characters of an upstream's message that are passed on
_CONTEXT = re.compile(r"maximum context length|context length is only|context_length_exceeded|context window", re.I)
_LIMIT = re.compile(r"(?:maximum context length|context length)\D{0,20}?(\d+)", re.I)
_REQUESTED = re.compile(r"(?:you requested|resulted in|requested about)\s+(\d+)\s+tokens", re.I)
_PASSED = re.compile(r"(\d+)\s+input tokens", re.I)
_OUTPUT = re.compile(r"(?:requested|too large:)\s+(\d+)", re.I)


class Unreached(EngineUnavailable):
    """No connection: nothing was sent, so trying again cannot cost anything twice."""


class Misconfigured(EngineUnavailable):
    """It answers, but not to this server: a wrong key or a wrong model. Waiting does not help."""


class Refused(EngineOverloaded):
    """The upstream had no room and did not begin."""


class Complaint(NamedTuple):
    """An upstream's error body, whatever its shape."""

    message: str
    param: str | None = None
    code: str | None = None


def from_response(status: int, body: bytes, headers: Mapping[str, str]) -> StropError:
    """The error that an answer with this status stands for."""
    failure = _failure(status, complaint(body), retry_after(headers))
    return Refused(str(failure), retry_after=failure.retry_after) if isinstance(failure, EngineOverloaded) else failure


def from_event(event: Mapping[str, Any]) -> StropError:
    """The error that an upstream put into its stream after the answer had begun."""
    error = event.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    if code is None and isinstance(event.get("code"), int):
        code = event["code"]
    status = int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdigit()) else 500
    return _failure(status, _complaint(event), 1.0)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of `retry-after-ms` or `Retry-After`; 1.0 when absent or a date. At most an hour."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return min(max(float(headers[name]) * unit, 0.0), 3600.0)
        except (KeyError, ValueError):
            continue
    return 1.0


def complaint(body: bytes) -> Complaint:
    """Read an error body: OpenAI's, vLLM's old flat one, FastAPI's, or plain text."""
    try:
        decoded = json.loads(body)
    except ValueError:
        return Complaint(_short(body.decode("utf-8", "replace")))
    return _complaint(decoded if isinstance(decoded, dict) else {"error": decoded})


def _complaint(body: Mapping[str, Any]) -> Complaint:
    error = body.get("error", body)
    if not isinstance(error, dict):
        return Complaint(_short(str(error)))
    message = error.get("message", error.get("detail", "no message"))
    param, code = error.get("param"), error.get("code")
    return Complaint(
        _short(message if isinstance(message, str) else json.dumps(message)),
        param if isinstance(param, str) else None,
        code if isinstance(code, str) and not code.isdigit() else None,
    )


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST] or "no message"


def _failure(status: int, said: Complaint, wait: float) -> StropError:
    if status in (401, 403):
        return Misconfigured("the upstream refused the server's key")
    if status in (429, 503):
        return EngineOverloaded(f"the upstream has no room: {said.message}", retry_after=wait)
    if status == 404:
        return EngineUnavailable(f"the upstream does not know what it was asked for: {said.message}")
    if status in (400, 413, 422):
        return _bad_request(said)
    return EngineError(f"the upstream failed with status {status}: {said.message}")


def _bad_request(said: Complaint) -> BadRequest:
    if said.code != "context_length_exceeded" and not _CONTEXT.search(said.message):
        return BadRequest(said.message, param=said.param, code=said.code or "invalid_value")
    numbers = _context_numbers(said.message)
    if numbers:
        return ContextTooLong(*numbers)
    return BadRequest(said.message, param=said.param or "messages", code="context_length_exceeded")


def _context_numbers(message: str) -> tuple[int, int] | None:
    """(tokens asked for, limit), from the sentences that OpenAI and vLLM use."""
    limit = _LIMIT.search(message)
    if limit is None:
        return None
    requested = _REQUESTED.search(message)
    if requested:
        return int(requested.group(1)), int(limit.group(1))
    passed = _PASSED.search(message)
    if passed is None:
        return None
    output = _OUTPUT.search(message)
    return int(passed.group(1)) + (int(output.group(1)) if output else 0), int(limit.group(1))
