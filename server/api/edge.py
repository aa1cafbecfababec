"""The outermost layer, in plain ASGI: request ids, timing, counting, and a net for whatever no handler caught."""

from __future__ import annotations

import logging
import re
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from strop.server.api.errors import problem_of
from strop.server.api.mark import GONE, Mark
from strop.server.observe.metrics import Metrics
from strop.server.quota import Quotas, Standing
from strop.server.service import Principal

log = logging.getLogger("strop.server.api")

_REQUEST_ID = re.compile(r"[\w-]{1,128}", re.ASCII)


class Edge:
    """Adds `x-request-id` (the client's own if it is harmless) and `openai-processing-ms` to every response, and
    where the key has a quota, what is left of it.

    Requests for work (POST below /v1/) are counted once each, whatever became of them.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, quotas: Quotas) -> None:
        self.app = app
        self.metrics = metrics
        self.quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        mark = Mark(request_id_of(Headers(scope=scope).get("x-request-id")))
        scope.setdefault("state", {})["mark"] = mark
        started = ended = False

        async def marked(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                started, mark.status = True, message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers["x-request-id"] = mark.request_id
                headers["openai-processing-ms"] = str(round(mark.seconds * 1000))
                principal = scope["state"].get("principal")
                if isinstance(principal, Principal) and (standing := self.quotas.standing(principal.tenant)):
                    headers.update(quota_headers(standing))
            elif message["type"] == "http.response.body":
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, marked)
        except ClientDisconnect:
            log.info("request %s: the client left while sending", mark.request_id)
        except Exception as failure:
            log.error("request %s failed: %s", mark.request_id, type(failure).__name__)
            if started:
                raise
            await problem_of(failure).response()(scope, receive, marked)
        finally:
            if scope["method"] == "POST" and scope["path"].startswith("/v1/"):
                self.metrics.finished(mark.ask, mark.status if ended else GONE, mark.seconds, mark.code)


def quota_headers(standing: Standing) -> dict[str, str]:
    """What a key may still generate, under OpenAI's names. `reset` is a duration such as "12.500s"."""
    return {
        "x-ratelimit-limit-tokens": str(standing.limit),
        "x-ratelimit-remaining-tokens": str(standing.remaining),
        "x-ratelimit-reset-tokens": f"{standing.reset:.3f}s",
    }


def request_id_of(given: str | None) -> str:
    """The client's id if it is safe to repeat in headers and logs, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else f"req_{token_hex(16)}"
