"""Layers between a strategy's context and the engines. Each has the same shape: `async (op, span) -> result`."""

from __future__ import annotations

from collections.abc import Mapping

from strop.server.engine.base import Engine
from strop.strategies.kit.capabilities import needs
from strop.strategies.kit.context import Perform
from strop.strategies.kit.ops import Generate, Logprobs, Op, Result
from strop.strategies.kit.span import Span

POLICY = "policy"


def engine_of(engines: Mapping[str, Engine], role: str) -> Engine:
    """The engine of a model role; roles without an engine of their own are played by the policy."""
    return engines.get(role, engines[POLICY])


def routed(engines: Mapping[str, Engine]) -> Perform:
    """Send generations to the engine of their role, after checking that it can do them."""

    async def perform(op: Op, span: Span) -> Result:
        engine = engine_of(engines, op.model if isinstance(op, Generate | Logprobs) else POLICY)
        engine.capabilities.require(needs(op))
        return await engine.perform(op, span)

    return perform
