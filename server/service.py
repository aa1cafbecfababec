"""The service: one request in, one outcome out, whatever the HTTP endpoint it came through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from strop.server.admission import Admission
from strop.server.engine.base import Engine
from strop.server.layers import POLICY, capabilities, engine_of, routed
from strop.server.observe.cost import Prices
from strop.server.observe.metrics import Metrics
from strop.server.quota import Quotas
from strop.server.scoring.registry import Scoring, checkers
from strop.server.scoring.sandbox import Sandbox
from strop.server.settings import Limits, Settings, Verifiers
from strop.server.traffic.jsonl import TraceLog
from strop.strategies.kit.budget import Budget
from strop.strategies.kit.capabilities import Capabilities
from strop.strategies.kit.context import Perform
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.events import Observer, Outcome
from strop.strategies.kit.run import Request, run
from strop.strategies.kit.strategy import Strategy
from strop.strategies.kit.types import Chat, Usage


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a tenant, the strategies it may use (None: all), and its own limits (None: the server's)."""

    tenant: str = "default"
    strategies: frozenset[str] | None = None
    limits: Limits | None = None
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """What the client chose, and where it said so (body, path, header, model, effort or default)."""

    strategy: Strategy
    knobs: dict[str, object]
    budget: Budget = Budget()
    preset: str | None = None
    source: str = "default"
    trace: bool = False
    stream_trace: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, free of any wire format. `id` is the response and trace id; `model` is the id the client sent."""

    id: str
    chat: Chat
    selection: Selection
    model: str
    choices: int = 1
    stream: bool = False
    principal: Principal = Principal()
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry: int = 0


class Service:
    """Engines, scorers, limits and observers, put together once per process."""

    def __init__(
        self,
        settings: Settings,
        engines: Mapping[str, Engine],
        strategies: Mapping[str, Strategy],
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.engines = dict(engines)
        self.strategies = strategies
        self.metrics = metrics
        self.prices = Prices(settings.prices)
        self.admission = Admission(settings.max_concurrent_requests, settings.max_queued_requests)
        self.quotas = Quotas(settings.keys)
        known = checkers(_sandbox(settings.verifiers), settings.verifiers.callbacks)
        self.scoring = Scoring(self.engines, checkers=known)
        self.trace_log = TraceLog(settings.trace_log)
        self.perform: Perform = self.scoring.layer(routed(self.engines))

    @property
    def engine(self) -> Engine:
        """The policy's engine."""
        return self.engines[POLICY]

    @property
    def capabilities(self) -> Capabilities:
        """What strategies can count on."""
        return capabilities(self.engines)

    @property
    def model_name(self) -> str:
        """The base model's public name."""
        return self.settings.served_model_name or self.engine.model.name

    def model_names(self) -> list[str]:
        """Every model id that a request may carry: the base, and the base with a preset or strategy."""
        base = self.model_name
        return [base, *(f"{base}:{name}" for name in dict.fromkeys([*self.settings.presets, *self.strategies]))]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Engines loaded, owner tasks started; all of it ended on leaving."""
        async with AsyncExitStack() as stack:
            for engine in self.engines.values():
                await stack.enter_async_context(engine.running())
            await stack.enter_async_context(self.scoring.running())
            await stack.enter_async_context(self.trace_log.running())
            yield

    async def answer(self, ask: Ask, observe: Sequence[Observer] = ()) -> Outcome:
        """Run the request within its limits. Raises errors of `kit.errors`; see `run` for what is always served."""
        selection = ask.selection
        budget = self.bounded(selection.budget, ask.principal)
        self.available(selection.strategy)
        request = Request(
            selection.strategy,
            self._with_default_length(ask.chat),
            dict(selection.knobs),
            budget,
            ask.chat.sampling.seed,
            ask.choices,
            ask.stream,
        )
        tenant = ask.principal.tenant
        self.quotas.admit(tenant)
        observers = [
            *observe,
            self.metrics.observer(ask),
            self.trace_log.observer(ask),
            self.quotas.observer(tenant),
        ]
        async with self.admission.slot():
            return await run(request, self.perform, observe=observers, price=self.price)

    def price(self, usage: Usage, role: str) -> float | None:
        """Dollars for what a role's engine did; None when its model has no price."""
        return self.prices.usd(usage, engine_of(self.engines, role).model.name)

    def available(self, strategy: Strategy) -> None:
        """Raise `MissingCapability` if the engines lack what the strategy always needs."""
        self.capabilities.require(dict.fromkeys(sorted(strategy.requires), "strop.strategy"))

    def bounded(self, asked: Budget, principal: Principal) -> Budget:
        """The request's budget under the caps of its key; asking for more than the cap is a `BadRequest`."""
        caps = principal.limits or self.settings.limits
        for name in ("tokens", "calls", "seconds", "usd"):
            wanted, cap = getattr(asked, name), getattr(caps, name)
            if wanted is not None and cap is not None and wanted > cap:
                raise BadRequest(
                    f"strop.budget.{name} is {wanted:g}, but this server allows at most {cap:g}",
                    param=f"strop.budget.{name}",
                    code="budget_exceeded",
                )
        if asked.usd is not None and self.price(Usage(), POLICY) is None:
            raise BadRequest(
                "strop.budget.usd needs a price for the model, and none is configured",
                param="strop.budget.usd",
                code="price_unknown",
            )
        pick = {
            n: getattr(caps, n) if (v := getattr(asked, n)) is None else v
            for n in ("tokens", "calls", "seconds", "usd")
        }
        return Budget(**pick)

    def _with_default_length(self, chat: Chat) -> Chat:
        return chat if chat.sampling.max_tokens is not None else chat.but(max_tokens=self.settings.default_max_tokens)


def _sandbox(verifiers: Verifiers) -> Sandbox | None:
    on = verifiers.sandbox
    return Sandbox(seconds=verifiers.sandbox_seconds, megabytes=verifiers.sandbox_megabytes) if on else None
