"""Layers between a strategy's context and the engines. Each has the same shape: `async (op, span) -> result`."""

from __future__ import annotations

from collections.abc import Mapping

from strop.server.engine.base import Engine
from strop.strategies.kit.capabilities import Capabilities, Capability, needs
from strop.strategies.kit.context import Perform
from strop.strategies.kit.ops import Op, Result, Score, Steps
from strop.strategies.kit.span import Span

POLICY = "policy"
REWARD = "reward"
"""The role of the reward model, which scores drafts and steps; nobody else plays it."""

NO_REWARD = "no reward model is loaded; the operator can set reward_model (and reward_format)"


def engine_of(engines: Mapping[str, Engine], role: str) -> Engine:
    """The engine of a model role; roles without an engine of their own are played by the policy."""
    return engines.get(role, engines[POLICY])


def capabilities(engines: Mapping[str, Engine]) -> Capabilities:
    """What a strategy can count on: the policy's capabilities, and process rewards by the reward model."""
    own = engines[POLICY].capabilities
    if REWARD not in engines:
        return Capabilities(own.offers, {**own.reasons, Capability.PRM: NO_REWARD})
    rewards = engines[REWARD].capabilities
    return Capabilities(own.offers | rewards.offers, {**own.reasons, Capability.PRM: rewards.why_not(Capability.PRM)})


def routed(engines: Mapping[str, Engine]) -> Perform:
    """Send an op to the engine of its role, after checking that it can do it; scores are the reward model's work."""

    async def perform(op: Op, span: Span) -> Result:
        if isinstance(op, Score | Steps):
            needed = needs(op) if REWARD in engines else {Capability.PRM: "strop.by"}
            capabilities(engines).require(needed)
            return await engine_of(engines, REWARD).perform(op, span)
        engine = engine_of(engines, getattr(op, "model", POLICY))
        engine.capabilities.require(needs(op))
        return await engine.perform(op, span)

    return perform
