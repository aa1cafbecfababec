"""The outermost layer, in plain ASGI: request ids, timing, and a net for whatever no handler caught."""

from __future__ import annotations

import logging
import re
from secrets import token_hex
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from strop.server.api.errors import problem_of

log = logging.getLogger("strop.server.api")

_REQUEST_ID = re.compile(r"[\w-]{1,128}", re.ASCII)


class Edge:
    """Adds `x-request-id` (the client's own if it is harmless) and `openai-processing-ms` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        began = perf_counter()
        started = False

        async def marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=message["headers"])
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((perf_counter() - began) * 1000))
            await send(message)

        try:
            await self.app(scope, receive, marked)
        except ClientDisconnect:
            log.info("request %s: the client left while sending", request_id)
        except Exception as failure:
            log.exception("request %s failed", request_id)
            if started:
                raise
            await problem_of(failure).response()(scope, receive, marked)


def request_id_of(given: str | None) -> str:
    """The client's id if it is safe to repeat in headers and logs, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else f"req_{token_hex(16)}"
