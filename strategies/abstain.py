"""Answer only where the confidence is high enough; otherwise say so in a fixed sentence.

By default the confidence is the share of n drafts that give the leading answer; a scorer can be named instead, which
then scores the leader. Below the threshold, or without a confidence (prose has no agreement, a judge may be
unreadable), the client gets a fixed refusal, and the trace says that it was one. So every answer that is served as the
answer has passed the threshold. Tool calls and structured output are served as they are, since a sentence would break
them; the trace has the confidence.

Paper: Kadavath et al. 2022, Language Models (Mostly) Know What They Know (arXiv 2207.05221) for confidence from the
    model itself; Wang et al. 2022, Self-Consistency (arXiv 2203.11171) for agreement as confidence; Wen et al. 2024,
    Know Your Limits (arXiv 2407.18418), a survey of abstention.
Cost: n generations; with a scorer one scoring of one draft.
Departures: none of a single paper; the threshold is yours to calibrate on labelled traffic: the confidence above which
    the error rate is what you can accept.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.rank import Ballot, heat, structured

AGREEMENT = "agreement"


async def abstain(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=64, description="drafts to sample; agreement needs at least 2")] = 5,
    by: Annotated[
        str, Field(min_length=1, description="the confidence: agreement, judge, or another registered scorer")
    ] = AGREEMENT,
    threshold: Annotated[float, Field(description="the least confidence that is answered; calibrate it")] = 0.6,
) -> Draft:
    if by == AGREEMENT and n < 2:
        raise BadRequest("abstain by agreement needs at least two drafts", param="strop.n")
    refusal = Draft(prompt(ctx, "abstain/refusal").question)
    drafts = await ctx.generate(question, n=n, temperature=heat(question, None) if n > 1 else None)
    ballot = await Ballot.of(ctx, question, drafts)
    leader = ballot.by_votes()[0]
    answer = drafts[leader]
    bound = structured(question, answer)
    ctx.keep(answer if bound else refusal)
    if by == AGREEMENT:
        votes = ballot.votes()
        mine = ballot.groups[leader]
        confidence = None if mine is None or mine not in votes else votes[mine] / n
    else:
        [confidence] = await ctx.score(question, [answer], by=by)
    sure = confidence is not None and confidence >= threshold
    ctx.note(confidence=confidence, abstained=not sure and not bound)
    return answer if sure or bound else refusal
