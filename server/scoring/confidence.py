"""Scores that a draft carries already: how sure the model was while it wrote. No call, no token."""

from __future__ import annotations

from strop.strategies.kit.capabilities import Capabilities
from strop.strategies.kit.context import Perform
from strop.strategies.kit.ops import Score, Scored
from strop.strategies.kit.span import Span


async def logprob(op: Score, span: Span, below: Perform, can: Capabilities) -> Scored:  # noqa: ARG001
    """Mean token logprob (nats per token) of each draft; None where the engine reported none."""
    return Scored(tuple(draft.mean_logprob for draft in op.drafts))


async def certainty(op: Score, span: Span, below: Perform, can: Capabilities) -> Scored:  # noqa: ARG001
    """Mean self-certainty (nats) of each draft, the mean KL divergence from uniform (arXiv 2502.18581)."""
    return Scored(tuple(draft.certainty for draft in op.drafts))
