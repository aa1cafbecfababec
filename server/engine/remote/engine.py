"""The remote engine: tokens come from OpenAI-compatible servers over HTTP, several replicas of one model if need be."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType

import anyio

from strop.server.engine.base import Counters, Health, ModelInfo
from strop.server.engine.remote.dialect import overridden
from strop.server.engine.remote.failures import Misconfigured
from strop.server.engine.remote.generation import Generation
from strop.server.engine.remote.link import Http, Link
from strop.server.engine.remote.meter import Totals
from strop.server.engine.remote.opening import opening
from strop.server.engine.remote.pool import Pool, Replica
from strop.server.engine.remote.probe import discover
from strop.server.engine.remote.weighing import weigh
from strop.strategies.kit.capabilities import Capabilities, Capability, needs
from strop.strategies.kit.errors import BadRequest, EngineError, EngineUnavailable, StropError
from strop.strategies.kit.fan import first_cause
from strop.strategies.kit.ops import Generate, Logprobs, Op, Result
from strop.strategies.kit.span import Span

log = logging.getLogger(__name__)

_NONE: Mapping[Capability, bool] = MappingProxyType({})
_CHECK = 5.0  # seconds that a health check may take
_SLOWEST_LOOK = 10.0  # seconds between two looks for the first upstream


class RemoteEngine:
    """Engine over HTTP; see `docs/engines.md`.

    `urls` are replicas of one model, with or without `/v1`. `model` is the name to ask for; None takes the one that
    the upstream lists. `timeout` is in seconds for one op. `probe` allows a few one-token generations at the start to
    find out what the upstream can do; `capabilities` switches single ones on or off afterwards. `retries` are further
    attempts when no connection could be made. `patience` is how long to wait at the start for a first upstream.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 600.0,
        probe: bool = True,
        capabilities: Mapping[Capability, bool] = _NONE,
        retries: int = 3,
        health_interval: float = 5.0,
        patience: float = 300.0,
        trust_env: bool = True,
    ) -> None:
        if not urls:
            raise ValueError("the remote engine needs at least one upstream URL")
        self._http = Http()
        links = [Link(self._http, url, api_key, trust_env=trust_env) for url in urls]
        self._pool = Pool([Replica(link) for link in links], retries)
        self._overrides = capabilities
        self._totals = Totals()
        self._wanted = model
        self._timeout = timeout
        self._probe = probe
        self._interval = health_interval
        self._patience = patience

    @property
    def model(self) -> ModelInfo:
        """The model all replicas serve, with the smallest context among them."""
        found = [f.model for f in self._pool.found]
        if not found:
            return ModelInfo(self._wanted or "unknown")
        context = min((m.context for m in found if m.context is not None), default=None)
        return ModelInfo(found[0].name, context, found[0].created)

    @property
    def capabilities(self) -> Capabilities:
        """What every replica that has answered so far offers."""
        return self._pool.capabilities

    @property
    def estimated(self) -> int:
        """Tokens in the counters that no upstream ever confirmed: counted chunks, guessed prompts."""
        return self._totals.estimated

    def health(self) -> Health:
        """Ready while one replica is up."""
        return self._pool.health()

    def counters(self) -> Counters:
        """Totals since the start, probes not included."""
        return self._totals.counters()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Find out what the upstreams are, then watch their health; connections are closed on leaving."""
        try:
            async with self._http.running(), anyio.create_task_group() as tasks:
                await self._meet_first()
                tasks.start_soon(self._watch)
                yield
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as failures:
            raise first_cause(failures) from failures

    async def perform(self, op: Op, span: Span) -> Result:
        """Do one `Generate` or `Logprobs` op."""
        self._totals.running += 1
        try:
            with anyio.move_on_after(self._timeout):
                return await self._perform(op, span)
            raise EngineError(f"the upstream did not finish within {self._timeout:g} seconds")
        finally:
            self._totals.running -= 1

    async def _perform(self, op: Op, span: Span) -> Result:
        if not self._pool.known:
            raise EngineUnavailable("no upstream has answered yet")
        self.capabilities.require(needs(op))
        match op:
            case Generate():
                start = await opening(self._pool, op)
                return await Generation(self._pool, self._totals, op, span, start).perform()
            case Logprobs():
                return await weigh(self._pool, self._totals, op, span)
            case _:
                raise BadRequest(f"an engine does not perform {type(op).__name__}", code="unsupported_op")

    async def _meet_first(self) -> None:
        """Wait until one upstream has said what it is. Wrong keys and wrong models are not waited for."""
        deadline = anyio.current_time() + self._patience
        pause = 0.2
        while True:
            await self._look()
            if self._pool.known:
                return
            why = self._pool.health().detail
            if all(replica.hopeless for replica in self._pool.replicas):
                raise Misconfigured(f"no upstream is usable: {why}")
            if anyio.current_time() + pause > deadline:
                raise EngineUnavailable(f"no upstream is usable: {why}")
            log.warning("waiting for an upstream: %s", why)
            await anyio.sleep(pause)
            pause = min(2 * pause, _SLOWEST_LOOK)

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(self._interval)
            await self._look()

    async def _look(self) -> None:
        async with anyio.create_task_group() as tasks:
            for replica in self._pool.replicas:
                tasks.start_soon(self._check, replica)

    async def _check(self, replica: Replica) -> None:
        """Is it up, and if it was not before: what is it now?"""
        try:
            with anyio.fail_after(_CHECK):
                status = await replica.link.status("/health")
                if status in (404, 405):
                    status = await replica.link.status("/v1/models")
            if status >= 400:
                raise EngineUnavailable(f"its health check answered with status {status}")
            if replica.found is None or not replica.up:
                await self._meet(replica)
            replica.is_up()
        except TimeoutError:
            replica.is_down(f"no answer within {_CHECK:g} seconds")
        except StropError as failure:
            replica.is_down(str(failure))
            replica.hopeless = isinstance(failure, Misconfigured)

    async def _meet(self, replica: Replica) -> None:
        found = await discover(replica.link, self._wanted, generate=self._probe)
        others = {other.found.model.name for other in self._pool.known if other is not replica and other.found}
        if others - {found.model.name}:
            raise Misconfigured(f"it serves '{found.model.name}', the others serve '{others.pop()}'")
        self._pool.met(replica, overridden(found, self._overrides))
