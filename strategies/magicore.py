"""Sample and score; vote on what is easy; review, revise and score again what is hard.

A question is hard if the scores leave it open which answer leads (normalised entropy of the score mass per answer) and
the leader's mean score is low. Easy ones are decided by the weighted vote. For hard ones every sample is reviewed, with
the rewards of its steps where a step scorer is named, and revised; old and new drafts are pooled, the best n by score
stay, and vote. So an old draft leaves only if better-scored ones push it out (the trust gate). Missing scores are no
evidence: without any the majority decides. A revision that drops the tool calls of its draft is thrown away.

Paper: Chen et al. 2024, MAgICoRe (arXiv 2409.12147).
Cost: n generations and one scoring of n drafts; per iteration on a hard question n reviews, n revisions, one scoring of
    the revisions, and n scorings of steps if steps names a scorer.
Departures: the entropy is divided by ln of the number of votes, since the paper's test needs four different answers to
    fire and n is small here; quality is the leader's mean score against a fixed bound, not a z-score over a test set;
    one scorer instead of the product of two; 8 samples instead of 40.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Sampling, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.gate import disqualified, needs_messages
from strop.strategies.kit.rank import Ballot, heat, positive, shown
from strop.strategies.kit.steps import split
from strop.strategies.kit.vote import weighted

REVIEWER = Sampling(temperature=0.0, max_tokens=1024)
Scores = list[float | None]


async def magicore(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=2, le=40, description="drafts to sample, and to keep after a revision")] = 8,
    by: Annotated[
        str, Field(min_length=1, description="who scores drafts in [0, 1]: judge, or another scorer")
    ] = "judge",
    steps: Annotated[
        str, Field(min_length=1, description="who scores the steps a reviewer sees: prm, or none")
    ] = "none",
    unsure: Annotated[float, Field(ge=0, le=1, description="hard needs a normalised entropy of at least this")] = 0.5,
    low: Annotated[float, Field(ge=0, le=1, description="hard needs a mean score of the leader below this")] = 0.5,
    iterations: Annotated[int, Field(ge=1, le=3, description="most rounds of revision")] = 1,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"magicore samples n={n} drafts, so it cannot fill {ctx.choices} choices", param="n")
    needs_messages(question, "magicore")
    drafts = await ctx.generate(question, n=n, temperature=heat(question, None))
    ballot = await Ballot.of(ctx, question, drafts)
    ctx.keep(drafts[ballot.by_votes()[0]])
    scores = await ctx.score(question, drafts, by=by)
    for turn in range(iterations + 1):
        known = any(score is not None for score in scores)
        order = ballot.by_score(scores, weighted=True) if known else ballot.by_votes()
        ctx.keep(drafts[order[0]])
        hard = known and _is_hard(ballot, scores, order[0], unsure, low)
        ctx.note(turn=turn, hard=hard, scores=scores, groups=ballot.groups)
        if not hard or turn == iterations:
            break
        new = await _revised(ctx, question, drafts, steps)
        if not new:
            break
        scores = [*scores, *await ctx.score(question, new, by=by)]
        pool = await Ballot.of(ctx, question, [*drafts, *new])
        best = sorted(pool.by_score(scores, weighted=False)[:n])
        drafts, scores = [pool.drafts[i] for i in best], [scores[i] for i in best]
        ballot = await Ballot.of(ctx, question, drafts)
    return [drafts[i] for i in ballot.one_per_answer(order)]


def _is_hard(ballot: Ballot, scores: Scores, leader: int, unsure: float, low: float) -> bool:
    voters = set(ballot.voters)
    names = [group if i in voters else None for i, group in enumerate(ballot.groups)]
    vote = weighted(names, positive(scores))
    mine = [s for i, s in enumerate(scores) if s is not None and (i == leader or (vote and names[i] == vote.answer))]
    entropy = vote.entropy if vote else 1.0
    return entropy >= unsure and bool(mine) and sum(mine) / len(mine) < low


async def _revised(ctx: Context, question: Chat, drafts: list[Draft], steps: str) -> list[Draft]:
    """The revisions that may compete, in the order of their drafts."""

    async def one(draft: Draft) -> Draft | None:
        seen = shown(draft) if steps == "none" or draft.tool_calls else await _annotated(ctx, question, draft, steps)
        fresh = prompt(ctx, "magicore/review", question=question.transcript(), candidate=seen, sampling=REVIEWER)
        [review] = await ctx.generate(fresh)
        asked = prompt(ctx, "magicore/refine", candidate=shown(draft), review=review.text)
        [new] = await ctx.generate(question.followed_by(asked), temperature=heat(question, None))
        return None if await disqualified(ctx, question, draft, new) else new

    return [new for new in await ctx.map(one, drafts, name="refine") if new is not None]


async def _annotated(ctx: Context, question: Chat, draft: Draft, by: str) -> str:
    """The text with a reward after each step; without rewards where the scorer divides it differently."""
    rewards, parts = await ctx.steps(question, draft, by=by), split(draft.text)
    if len(rewards) != len(parts):
        return shown(draft)
    return "\n\n".join(f"{part.strip()} (Score: {round(10 * r)}/10)" for part, r in zip(parts, rewards, strict=True))
