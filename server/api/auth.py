"""Authentication, in plain ASGI: who holds which key. Everything needs one except probes and, if so set, metrics."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from strop.server.api.errors import Problem
from strop.server.keys import Keyring
from strop.server.service import Principal

PROBES = frozenset({"/health", "/health/live", "/health/ready"})


class Authentication:
    """Puts the `Principal` of the request's key into its state; 401 without a key, or with a wrong one.

    The key comes as `Authorization: Bearer ...`, or as `x-api-key`.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, *, metrics_public: bool) -> None:
        self.app = app
        self._keyring = keyring
        self._open = PROBES | ({"/metrics"} if metrics_public else frozenset())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open or not self._keyring.required:
            await self.app(scope, receive, send)
            return
        principal = self._principal(Headers(scope=scope))
        if principal is None:
            await _refusal().response()(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self.app(scope, receive, send)

    def _principal(self, headers: Headers) -> Principal | None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return self._keyring.find(key) if key else None


def _refusal() -> Problem:
    return Problem(
        401,
        "authentication_error",
        "invalid_api_key",
        "this server needs an API key: send it as 'Authorization: Bearer KEY'",
        headers={"www-authenticate": "Bearer"},
    )
