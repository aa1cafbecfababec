"""One upstream server over HTTP: JSON calls, and streams that are closed at once when the caller is cancelled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any

import anyio
import httpx

from strop.server.engine.remote.failures import Unreached, from_response
from strop.server.engine.remote.sse import Events
from strop.strategies.kit.errors import EngineError

_DRAIN = 0.5  # seconds to wait for the end of a stream that has said [DONE], so that its connection can be reused

Take = Callable[[Mapping[str, Any]], None]


class Link:
    """Talks to one server. `url` may or may not end in the API root (`/v1`)."""

    def __init__(self, client: httpx.AsyncClient, url: str, api_key: str | None) -> None:
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"not an http(s) URL: {url!r}")
        base = url.rstrip("/")
        self.api = base if base.endswith("/v1") else f"{base}/v1"
        self.root = self.api.removesuffix("/v1")
        self.label = str(parsed.copy_with(username=None, password=None, query=None, fragment=None))
        self._client = client
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def get(self, path: str) -> Any:
        """The JSON at `path`; a path that starts with /v1 is below the API root."""
        return await self._json("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that `path` answers to `body`."""
        return await self._json("POST", path, body)

    async def status(self, path: str) -> int:
        """The status of a GET. Raises `Unreached` or `EngineError` when there is none."""
        with translated():
            return (await self._client.get(self._url(path), headers=self._headers)).status_code

    async def stream(self, path: str, body: Mapping[str, Any], sent: Callable[[], None], take: Take) -> bool:
        """POST `body` and hand every chunk of the answer to `take`; True if the upstream said that it was done.

        `sent` is called as soon as the upstream may have begun to work. Raises `Unreached` or `Refused` when it
        certainly has not. A cancelled caller closes the connection, which is how upstreams learn to stop.
        """
        on_its_way = False

        async def trace(event: str, _: Mapping[str, Any]) -> None:
            nonlocal on_its_way
            on_its_way |= event.endswith("send_request_headers.started")

        request = self._client.build_request(
            "POST", self._url(path), json=body, headers=self._headers, extensions={"trace": trace}
        )
        try:
            with translated():
                response = await self._client.send(request, stream=True)
        except BaseException:
            if on_its_way:
                sent()
            raise
        try:
            with translated():
                if response.status_code != 200:
                    raise from_response(response.status_code, await response.aread(), response.headers)
                sent()
                return await _read(response, take)
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        with translated():
            response = await self._client.request(method, self._url(path), json=body, headers=self._headers)
        if response.status_code != 200:
            raise from_response(response.status_code, response.content, response.headers)
        return decoded(response.content)

    def _url(self, path: str) -> str:
        return self.api + path[3:] if path.startswith("/v1/") else self.root + path


@contextmanager
def translated() -> Iterator[None]:
    """Failures of the connection as the kit's errors."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as failure:
        raise Unreached(f"the upstream cannot be reached ({type(failure).__name__})") from failure
    except httpx.HTTPError as failure:
        raise EngineError(f"the connection to the upstream broke ({type(failure).__name__})") from failure


def decoded(data: bytes) -> Any:
    """JSON, or `EngineError`."""
    try:
        return json.loads(data)
    except ValueError as failure:
        raise EngineError("the upstream sent something that is not JSON") from failure


async def _read(response: httpx.Response, take: Take) -> bool:
    """Hand over every chunk; an upstream that answers in one piece hands over one."""
    if "json" in response.headers.get("content-type", ""):
        _take(take, await response.aread())
        return True
    events, done = Events(), False
    with anyio.CancelScope() as scope:
        try:
            async for received in response.aiter_bytes():
                for event in () if done else _events(events, received):
                    done = done or event == b"[DONE]"
                    if not done:
                        _take(take, event)
                if done and scope.deadline == inf:
                    scope.deadline = anyio.current_time() + _DRAIN
        except httpx.HTTPError:
            if not done:
                raise
    for event in () if done else _events(events, b"\n\n"):
        done = done or event == b"[DONE]"
        if not done:
            _take(take, event)
    return done


def _events(events: Events, received: bytes) -> list[bytes]:
    try:
        return events.feed(received)
    except ValueError as failure:
        raise EngineError(f"the upstream sent garbage: {failure}") from failure


def _take(take: Take, event: bytes) -> None:
    chunk = decoded(event)
    if not isinstance(chunk, dict):
        raise EngineError("the upstream sent a chunk that is not a JSON object")
    take(chunk)
