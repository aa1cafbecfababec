"""Find the first bad step of an answer, go back to just before it, and write the rest again several times.

A process reward model scores every step; at the first one below the threshold the answer is cut, and n continuations
are sampled from the steps before it, so only the tail is decoded again and the prefix comes from the cache. Those whose
next step repeats the bad one are dropped. Of the others the one with the highest lowest reward is taken, and it
replaces the answer only if it is strictly higher than the answer's own lowest reward (the trust gate). Unfinished
continuations, and rewards that do not fit the steps, are no evidence. Tool calls and structured output turn it off.

Paper: Tyen et al. 2024, LLMs cannot find reasoning errors, but can correct them (arXiv 2311.08516).
Cost: 1 generation and one scoring of its steps; then per round n continuations, each from the bad step on, and at most
    n scorings of steps. The continuations of a draft of L tokens cut after K cost n (L - K) tokens, not n L.
Departures: the continuations are finished at the sampling temperature, where the paper samples only the bad step and
    goes on greedily; the pick is by process reward instead of log-probability; gated.
Requires: prefix
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Prefix, Tokens
from strop.strategies.kit.steps import join, split

CHARACTERS = 4
"""Per token, where the engine does not report tokens."""


async def backtrack(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=32, description="continuations to sample from before the bad step")] = 8,
    threshold: Annotated[float, Field(ge=0, le=1, description="a step with a reward below this is bad")] = 0.5,
    by: Annotated[str, Field(min_length=1, description="who scores the steps: prm, or another step scorer")] = "prm",
    rounds: Annotated[int, Field(ge=1, le=8, description="most times to go back")] = 1,
    temperature: Annotated[float, Field(gt=0, le=2, description="of the continuations")] = 1.0,
) -> Draft:
    [draft] = await ctx.generate(question)
    ctx.keep(draft)
    if question.format.kind != "text" or draft.tool_calls or question.tool_choice.mode in ("required", "named"):
        ctx.note(stopped="tools or structured output")
        return draft
    rewards = await _rewards(ctx, question, draft, by)
    why = "rounds"
    for turn in range(1, rounds + 1):
        bad = next((i for i, reward in enumerate(rewards) if reward < threshold), None)
        if bad is None:
            why = "no step is bad" if rewards else "the steps could not be scored"
            break
        fresh = await _continued(ctx, question, draft, bad, n, temperature)
        scored = dict(await ctx.map(lambda new: _scored(ctx, question, new, by), fresh, name="steps")) if fresh else {}
        best = max(scored, key=lambda new: min(scored[new], default=-1.0), default=None)
        if best is None or min(scored[best], default=-1.0) <= min(rewards):
            why = "no continuation is better"
            break
        draft, rewards = best, scored[best]
        ctx.keep(draft, min(rewards))
        ctx.note(turn=turn, bad=bad, rewards=rewards)
    ctx.note(stopped=why)
    return draft


async def _continued(ctx: Context, question: Chat, draft: Draft, bad: int, n: int, temperature: float) -> list[Draft]:
    """The distinct finished continuations from before step `bad` that begin with another step."""
    start = _before(draft, bad)
    limit, least = question.sampling.max_tokens, max(0, question.sampling.min_tokens - start.n_tokens)
    if limit is not None and limit <= start.n_tokens:
        return []
    room = None if limit is None else limit - start.n_tokens
    prefix = Prefix(start) if start.text else None
    new = await ctx.generate(question, n=n, prefix=prefix, temperature=temperature, max_tokens=room, min_tokens=least)
    old = split(draft.text)[bad].strip()
    usable = [d for d in new if d.finish != "length" and not d.tool_calls and len(split(d.text)) > bad]
    return list({d.text: d for d in usable if split(d.text)[bad].strip() != old}.values())


async def _scored(ctx: Context, question: Chat, draft: Draft, by: str) -> tuple[Draft, Sequence[float]]:
    return draft, await _rewards(ctx, question, draft, by)


async def _rewards(ctx: Context, question: Chat, draft: Draft, by: str) -> Sequence[float]:
    """One reward per step; none at all if the scorer divides the text differently, for then no step can be found."""
    rewards = await ctx.steps(question, draft, by=by)
    return rewards if len(rewards) == len(split(draft.text)) else ()


def _before(draft: Draft, step: int) -> Draft:
    """The draft cut before a step: at the last token that ends there or earlier, or by text without tokens."""
    steps, texts = split(draft.text), draft.tokens.texts
    size = len(join(steps[:step]))
    if texts and "".join(texts) == draft.text:
        count = length = 0
        while count < len(texts) and length + len(texts[count]) <= size:
            length += len(texts[count])
            count += 1
        return draft.cut(count)
    kept = round(draft.n_tokens * size / max(1, len(draft.text))) if draft.n_tokens else size // CHARACTERS
    return replace(draft, text=draft.text[:size], tokens=Tokens(), n_tokens=kept, finish="length")
