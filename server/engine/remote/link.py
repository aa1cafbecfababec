"""One upstream server over HTTP: JSON calls, and streams that are closed at once when the caller is cancelled."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from math import inf
from types import SimpleNamespace
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio
from yarl import URL

from strop.server.engine.remote.failures import Unreached, from_response
from strop.server.engine.remote.sse import Events
from strop.strategies.kit.errors import EngineError

_DRAIN = 0.5  # seconds to wait for the end of a stream that has said [DONE], so that its connection can be reused
_KEEP_ALIVE = 4.0  # seconds; uvicorn, and so vLLM, closes idle connections after 5
_CONNECT = 5.0  # seconds

Take = Callable[[Mapping[str, Any]], None]


class Http:
    """The connections of one engine, open while it runs. One pool for all upstreams, without a limit of its own."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool; only while running."""
        if self._session is None:
            raise EngineError("the remote engine is not running")
        return self._session

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connections are made on demand and closed on leaving."""
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_headers_sent)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
            headers={"Accept-Encoding": "identity"},
            trace_configs=[trace],
        ) as self._session:
            yield
        self._session = None


async def _headers_sent(_: object, context: SimpleNamespace, __: object) -> None:
    """From here on the upstream may be working."""
    sent = getattr(context, "trace_request_ctx", None)
    if isinstance(sent, list):
        sent.append(True)


class Link:
    """Talks to one server. `url` may or may not end in the API root (`/v1`)."""

    def __init__(self, http: Http, url: str, api_key: str | None, *, trust_env: bool = True) -> None:
        parsed = URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"not an http(s) URL: {url!r}")
        base = url.rstrip("/")
        self.api = base if base.endswith("/v1") else f"{base}/v1"
        self.root = self.api.removesuffix("/v1")
        self.label = str(parsed.with_user(None).with_query(None).with_fragment(None))
        self._http = http
        self._proxy = proxy_of(parsed) if trust_env else None
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
            async with self._http.session.get(self._url(path), headers=self._headers, proxy=self._proxy) as response:
                return response.status

    async def stream(self, path: str, body: Mapping[str, Any], sent: Callable[[], None], take: Take) -> bool:
        """POST `body` and hand every chunk of the answer to `take`; True if the upstream said that it was done.

        `sent` is called as soon as the upstream may have begun to work. Raises `Unreached` or `Refused` when it
        certainly has not. A cancelled caller closes the connection, which is how upstreams learn to stop.
        """
        on_its_way: list[bool] = []
        try:
            with translated():
                response = await self._http.session.post(
                    self._url(path), json=body, headers=self._headers, proxy=self._proxy, trace_request_ctx=on_its_way
                )
        except BaseException:
            if on_its_way:
                sent()
            raise
        try:
            with translated():
                if response.status != 200:
                    raise from_response(response.status, await response.read(), response.headers)
                sent()
                return await _read(response, take)
        finally:
            response.close()  # gives the connection back if all was read, else closes it

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        with translated():
            async with self._http.session.request(
                method, self._url(path), json=body, headers=self._headers, proxy=self._proxy
            ) as response:
                content = await response.read()
        if response.status != 200:
            raise from_response(response.status, content, response.headers)
        return decoded(content)

    def _url(self, path: str) -> str:
        return self.api + path[3:] if path.startswith("/v1/") else self.root + path


def proxy_of(url: URL) -> str | None:
    """The proxy that the environment names for `url`, looked up once rather than for every request."""
    return None if proxy_bypass(url.host or "") else getproxies().get(url.scheme)


@contextmanager
def translated() -> Iterator[None]:
    """Failures of the connection as the kit's errors."""
    try:
        yield
    except (aiohttp.ClientConnectionError, TimeoutError) as failure:
        if isinstance(failure, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            raise Unreached(f"the upstream cannot be reached ({type(failure).__name__})") from failure
        raise EngineError(f"the connection to the upstream broke ({type(failure).__name__})") from failure
    except aiohttp.ClientError as failure:
        raise EngineError(f"the connection to the upstream broke ({type(failure).__name__})") from failure


def decoded(data: bytes) -> Any:
    """JSON, or `EngineError`."""
    try:
        return json.loads(data)
    except ValueError as failure:
        raise EngineError("the upstream sent something that is not JSON") from failure


async def _read(response: aiohttp.ClientResponse, take: Take) -> bool:
    """Hand over every chunk; an upstream that answers in one piece hands over one."""
    if "json" in response.headers.get("content-type", ""):
        _take(take, await response.read())
        return True
    events, done = Events(), False
    with anyio.CancelScope() as scope:
        try:
            async for received in response.content.iter_any():
                for event in () if done else _events(events, received):
                    done = done or event == b"[DONE]"
                    if not done:
                        _take(take, event)
                if done and scope.deadline == inf:
                    scope.deadline = anyio.current_time() + _DRAIN
        except aiohttp.ClientError:
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
