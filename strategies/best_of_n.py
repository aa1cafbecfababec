"""Sample n answers, score each, serve the best.

Scores come from a judge, a reward model or any other registered scorer, or from the drafts themselves. By default
scores of equal answers are added up (weighted best-of-N): an out-of-domain scorer that loves one wrong draft is
outvoted. The served draft is the best-scored one of the winning answer. Unfinished drafts rank below finished ones,
and drafts that lack the asked JSON shape below all others; drafts without a score cannot win against scored ones.

Paper: Cobbe et al. 2021 (arXiv 2110.14168) for scoring samples with a verifier; Li et al. 2023 (arXiv 2206.02336) for
    adding up the scores of equal answers; Kang et al. 2025 (arXiv 2502.18581) for self-certainty.
Cost: n generations; then what the scorer takes for n drafts, which is nothing for logprob, certainty and majority, and
    nothing at all when there is only one draft.
Departures: scorers with negative values are added up as exp(score - best); drafts whose answer cannot be read rank
    behind all readable ones when scores are added up, and without any readable answer the best score wins. Naive
    self-certainty is the mean over tokens; no Borda voting.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.rank import Ballot, heat

OWN = {"logprob": "logprobs", "certainty": "certainty", "majority": None}
"""Ways to choose that need no scorer: the numbers come with the drafts."""


async def best_of_n(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=64, description="drafts to sample")] = 8,
    by: Annotated[
        str,
        Field(
            min_length=1,
            description="what decides: judge, pairwise, logprob, certainty, majority, or another registered scorer",
        ),
    ] = "judge",
    weighted: Annotated[bool, Field(description="add up the scores of drafts that give the same answer")] = True,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the drafts; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"best_of_n samples n={n} drafts, so it cannot fill {ctx.choices} choices", param="n")
    want = [number] if (number := OWN.get(by)) else []
    drafts = await ctx.generate(question, n=n, temperature=heat(question, temperature), want=want)
    ctx.keep(drafts[0])
    ballot = await Ballot.of(ctx, question, drafts)
    order = ballot.by_votes()
    ctx.keep(drafts[order[0]])
    if by != "majority" and len(drafts) > 1:
        scores = await _scores(ctx, question, drafts, by)
        if any(score is not None for score in scores):
            order = ballot.by_score(scores, weighted=weighted)
            ctx.keep(drafts[order[0]], scores[order[0]])
        ctx.note(by=by, scores=scores, fallback=None if any(s is not None for s in scores) else "majority")
    ctx.note(groups=ballot.groups, chosen=order[0])
    return [drafts[i] for i in order]


async def _scores(ctx: Context, question: Chat, drafts: list[Draft], by: str) -> list[float | None]:
    match by:
        case "logprob":
            return [draft.mean_logprob for draft in drafts]
        case "certainty":
            return [draft.certainty for draft in drafts]
        case _:
            return await ctx.score(question, drafts, by=by)
