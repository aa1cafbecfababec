"""Errors on the wire: one table from exception type to status, type and code, and OpenAI's error body everywhere."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from strop.server.api.mark import mark_of
from strop.server.quota import RateLimited
from strop.strategies.kit.errors import (
    BadRequest,
    BudgetSpent,
    DeadlinePassed,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    ScorerError,
    StropError,
)
from strop.strategies.kit.fan import first_cause

log = logging.getLogger("strop.server.api")

INVALID = "invalid_request_error"
SERVER = "server_error"


class ErrorDetail(TypedDict):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every response that is not a success."""

    error: ErrorDetail


class HttpError(Exception):
    """A refusal that only the HTTP surface knows: a wrong key, an unknown model, a body that is too large."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.problem = Problem(status, kind, code, message, param, dict(headers or {}))


@dataclass(frozen=True, slots=True)
class Problem:
    """An error ready to be sent: HTTP status, the four fields of OpenAI's error object, extra headers."""

    status: int
    kind: str
    code: str | None
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> ErrorBody:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The whole HTTP response, with more headers."""
        return Response(to_json(self.body), self.status, {**self.headers, **(headers or {})}, "application/json")

    def after_work(self) -> Problem:
        """The same error, telling clients not to pay for the same work again."""
        return replace(self, headers={**self.headers, "x-should-retry": "false"})


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. `message` replaces the exception's own, which may name paths or addresses."""

    status: int
    kind: str
    code: str | None = None
    message: str | None = None
    retry_after: float | None = None
    spent: bool = False


TABLE: Mapping[type[BaseException], Row] = {
    BadRequest: Row(400, INVALID),
    BudgetSpent: Row(400, INVALID, "budget_exceeded"),
    DeadlinePassed: Row(504, SERVER, "strategy_timeout", spent=True),
    EngineOverloaded: Row(503, SERVER, "engine_overloaded", "there is no room for this request now; try again later"),
    EngineUnavailable: Row(503, SERVER, "engine_unavailable", "the model is not available now", retry_after=5.0),
    RateLimited: Row(429, "tokens", "rate_limit_exceeded"),
    EngineError: Row(502, SERVER, "engine_error", "the engine failed while it worked on this request"),
    ScorerError: Row(500, SERVER, "scorer_error", "a scorer failed while it worked on this request"),
    Exception: Row(500, SERVER, "internal_error", "the server failed while it worked on this request"),
}


def problem_of(failure: BaseException) -> Problem:
    """What the client is told about `failure`. Server errors are logged with everything the client is not told."""
    if isinstance(failure, BaseExceptionGroup):
        failure = first_cause(failure)
    if isinstance(failure, HttpError):
        return failure.problem
    row = next(TABLE[cls] for cls in type(failure).__mro__ if cls in TABLE)
    if row.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("a request failed: %s", failure, exc_info=failure if row.code == "internal_error" else None)
    wait = getattr(failure, "retry_after", row.retry_after)
    problem = Problem(
        row.status,
        row.kind,
        getattr(failure, "code", row.code),
        row.message or str(failure),
        getattr(failure, "param", None),
        retry_headers(wait) if wait is not None else {},
    )
    return problem.after_work() if row.spent else problem


def retry_headers(seconds: float) -> dict[str, str]:
    """Both spellings of "come back in ..."; `retry-after` has no fractions."""
    return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(max(1, math.ceil(seconds * 1000)))}


def not_found(message: str, *, code: str, param: str | None = None) -> HttpError:
    """404 for a model, a strategy, a stored thing."""
    return HttpError(404, message, kind="not_found_error", code=code, param=param)


def forbidden(message: str, *, code: str = "permission_denied", param: str | None = None) -> HttpError:
    """403 for a key that may not do this."""
    return HttpError(403, message, kind="permission_error", code=code, param=param)


def install(app: FastAPI) -> None:
    """Answer every error of a route, and every request without a route, in OpenAI's shape."""
    for kind in (StropError, HttpError):
        app.add_exception_handler(kind, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)


def answered(request: Request, problem: Problem) -> Response:
    """The response to `problem`, which is also noted for the metrics."""
    mark_of(request.scope).code = problem.code
    return problem.response()


async def _ours(request: Request, failure: Exception) -> Response:
    return answered(request, problem_of(failure))


async def _invalid(request: Request, failure: Exception) -> Response:
    first: Mapping[str, Any] = failure.errors()[0] if isinstance(failure, RequestValidationError) else {}
    param = ".".join(str(part) for part in first.get("loc", ())[1:]) or None
    message = str(first.get("msg", "the request is invalid"))
    return answered(request, Problem(400, INVALID, "invalid_value", message, param))


async def _plain(request: Request, failure: Exception) -> Response:
    """Unknown paths and methods; anything else that the framework itself refuses."""
    assert isinstance(failure, HTTPException)
    headers = dict(failure.headers or {})
    where = f"{request.method} {request.url.path[:200]}"
    match failure.status_code:
        case 404:
            problem = Problem(404, "not_found_error", "unknown_url", f"there is nothing at {where}", headers=headers)
        case 405:
            problem = Problem(405, INVALID, "method_not_allowed", f"{where} is not answered", headers=headers)
        case status:
            kind = SERVER if status >= HTTPStatus.INTERNAL_SERVER_ERROR else INVALID
            problem = Problem(status, kind, None, HTTPStatus(status).phrase, headers=headers)
    return answered(request, problem)
