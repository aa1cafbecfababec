"""A verifier that asks the client's own service over HTTP, if the operator allows its address."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from strop.server.scoring.checks import text_of
from strop.server.scoring.judge import shown
from strop.strategies.kit.errors import BadRequest, MissingCapability
from strop.strategies.kit.ops import Verified, Verify
from strop.strategies.kit.types import Verdict

MOST_CHARS = 2000
MOST_BYTES = 1 << 20
EVIDENCE = 4000
"""Characters of evidence that are kept."""


class Said(BaseModel):
    """One verdict of the callback's reply."""

    model_config = ConfigDict(strict=True)

    ok: bool | None
    evidence: str = ""


class Reply(BaseModel):
    """The callback's reply: one verdict per answer, in order."""

    verdicts: list[Said]


@dataclass(frozen=True, slots=True)
class Callback:
    """POST `{"question", "answers"}` to `spec["url"]`, which must start with one of the `allowed` addresses.

    Redirects are not followed, proxies and credentials of the environment not used. Whatever goes wrong over there is
    no verdict.
    """

    allowed: tuple[str, ...] = ()
    seconds: float = 10.0
    transport: httpx.AsyncBaseTransport | None = None

    async def __call__(self, op: Verify) -> Verified:
        """One verdict per draft."""
        url = text_of(op, "url", MOST_CHARS)
        if not self.allowed:
            raise MissingCapability("callback", "callbacks are switched off; the operator can set verifiers.callbacks")
        if not any(within(url, each) for each in self.allowed):
            raise BadRequest("the operator does not allow callbacks to this address", param="strop.spec")
        body = {"question": op.chat.transcript(), "answers": [shown(draft) for draft in op.drafts]}
        try:
            reply = Reply.model_validate_json(await self._post(url, body))
        except (httpx.HTTPError, httpx.InvalidURL, ValidationError) as failure:
            return _nothing(op, f"the callback gave no verdict ({type(failure).__name__})")
        if len(reply.verdicts) != len(op.drafts):
            return _nothing(op, f"the callback gave {len(reply.verdicts)} verdicts for {len(op.drafts)} answers")
        return Verified(tuple(Verdict(said.ok, said.evidence[:EVIDENCE]) for said in reply.verdicts))

    async def _post(self, url: str, body: Mapping[str, object]) -> bytes:
        """The body of a reply with status 200."""
        received = b""
        async with (
            httpx.AsyncClient(transport=self.transport, timeout=self.seconds, trust_env=False) as client,
            client.stream("POST", url, content=json.dumps(body), headers={"content-type": "application/json"}) as reply,
        ):
            if reply.status_code != 200:
                raise httpx.HTTPStatusError("not 200", request=reply.request, response=reply)
            async for chunk in reply.aiter_bytes():
                received += chunk
                if len(received) > MOST_BYTES:
                    raise httpx.DecodingError("too long", request=reply.request)
        return received


def within(url: str, allowed: str) -> bool:
    """Whether the address is the allowed one or below it: same scheme, host and port, path in whole segments."""
    try:
        asked, given = urlsplit(url), urlsplit(allowed)
        same = _origin(asked) == _origin(given)
    except ValueError:
        return False
    path, folder = unquote(asked.path), given.path.rstrip("/")
    clean = not (asked.username or asked.password or "\\" in url or "%" in path or ".." in path.split("/"))
    return same and clean and (path == folder or path.startswith(folder + "/"))


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _nothing(op: Verify, why: str) -> Verified:
    return Verified((Verdict(None, why),) * len(op.drafts))
