"""Vote among the answers that the model was sure of while it wrote them, weighted by how sure it was.

The confidence of a token is the mean of -log p over its `top` likeliest alternatives: high when the distribution is
peaked. Groups are `window` neighbouring tokens. Offline, n answers are written, the `keep` percent with the highest
confidence vote, and each vote weighs its confidence. Online, `warmup` answers are written first; they set a threshold,
and every later answer is abandoned at the first checkpoint (each `window` tokens) where its least sure group falls
below it. Sampling ends early once one answer has the share `consensus` of at least four votes.

Paper: Fu et al. 2025, Deep Think with Confidence (arXiv 2508.15260).
Cost: n generations. Online: `warmup` whole answers, then for each abandoned answer the tokens up to its checkpoint; in
    one call per answer and window over a cached prefix. No scorer.
Departures: the defaults are for a server: n=16 (paper: 512 or 256), window=256 (2048), warmup=8 (16). Online answers
    are looked at every `window` tokens, not at every token; they are written `warmup` at a time, so that consensus can
    end the sampling, which the paper describes and its code lacks.
Requires: top_logprobs
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft
from strop.strategies.kit.confidence import Measure, draft_confidence, percentile
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.rank import Ballot, heat
from strop.strategies.kit.stepwise import Stepper

FEWEST = 4
"""Fewer votes than this are no consensus."""


async def deepconf(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=256, description="most answers")] = 16,
    keep: Annotated[
        float, Field(gt=0, le=100, description="percent of the answers that vote, the surest first")
    ] = 90.0,
    measure: Annotated[
        Measure, Field(description="offline: mean, tail (last window), bottom (lowest tenth of windows), lowest window")
    ] = "tail",
    window: Annotated[
        int, Field(ge=16, le=8192, description="tokens in a group, and between online checkpoints")
    ] = 256,
    top: Annotated[int, Field(ge=2, le=20, description="alternatives per token that the confidence looks at")] = 20,
    online: Annotated[bool, Field(description="abandon unsure answers while they are written; needs prefix")] = False,
    warmup: Annotated[int, Field(ge=1, le=64, description="online: whole answers that set the threshold")] = 8,
    consensus: Annotated[
        float, Field(gt=0, le=1, description="online: stop when one answer has this share of the votes")
    ] = 0.95,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the answers; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"deepconf samples n={n} answers, so it cannot fill {ctx.choices} choices", param="n")
    alternatives = max(top, question.sampling.top_logprobs)
    hot = question.but(temperature=heat(question, temperature), top_logprobs=alternatives, logprobs=True)
    first = min(n, warmup) if online else n
    drafts = await ctx.generate(hot, n=first)
    ctx.keep(drafts[0])
    how: Measure = "lowest" if online else measure
    sure = [draft_confidence(draft, how, window) for draft in drafts]
    known = [value for value in sure if value is not None]
    threshold = percentile(known, 100.0 - keep) if known else float("-inf")
    voters = [draft for draft, value in zip(drafts, sure, strict=True) if value is None or value >= threshold]
    rest = [draft for draft in drafts if draft not in voters]
    order, share = await _vote(ctx, question, voters, how, window)
    ctx.keep(voters[order[0]])
    sampled = first
    while sampled < n and (share < consensus or len(voters) < FEWEST or sampled < ctx.choices):
        batch = min(first, n - sampled)
        new, dropped = await _race(ctx, hot, batch, window, threshold)
        voters, rest, sampled = [*voters, *new], [*rest, *dropped], sampled + batch
        order, share = await _vote(ctx, question, voters, how, window)
        ctx.keep(voters[order[0]])
    ctx.note(threshold=threshold if known else None, sampled=sampled, voters=len(voters), share=share)
    return [*(voters[i] for i in order), *rest]


async def _vote(
    ctx: Context, question: Chat, drafts: list[Draft], how: Measure, window: int
) -> tuple[list[int], float]:
    """Places of the drafts, best first, and the share of the votes that the winner's answer has."""
    sure = [draft_confidence(draft, how, window) for draft in drafts]
    weights = sure if any(value is not None for value in sure) else [1.0] * len(drafts)
    ballot = await Ballot.of(ctx, question, drafts)
    votes = ballot.votes([value or 0.0 for value in weights])
    return ballot.by_score(weights, weighted=True), max(votes.values(), default=0.0) / (sum(votes.values()) or 1.0)


async def _race(ctx: Context, hot: Chat, n: int, window: int, threshold: float) -> tuple[list[Draft], list[Draft]]:
    """`n` more answers: those written to their end, and those abandoned because a full group was not sure enough."""
    race = Stepper(ctx, hot, step_tokens=window, pause="")
    paths, kept, dropped = await race.start(n), list[Draft](), list[Draft]()
    while paths:
        low = [draft_confidence(path.draft, "lowest", window) for path in paths]
        full = [len(path.draft.tokens) - path.draft.n_injected >= window for path in paths]
        unsure = [is_full and value is not None and value < threshold for is_full, value in zip(full, low, strict=True)]
        dropped += [path.servable for path, out in zip(paths, unsure, strict=True) if out]
        sound = [path for path, out in zip(paths, unsure, strict=True) if not out]
        kept += [path.servable for path in sound if path.over]
        paths = [path for path in sound if not path.over]
        paths = await race.grow(paths, [1] * len(paths)) if paths else []
    return kept, dropped
