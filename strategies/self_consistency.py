"""Sample several answers and serve one that the most drafts agree with.

Adaptive by default: drafts are sampled four at a time, and sampling stops as soon as the leading answer is safe, so
easy questions cost half. Votes are counted over drafts in the order of their places, never in the order in which they
finish, so the result does not depend on timing; drafts that are no longer needed are cancelled. A draft whose answer
cannot be read does not vote but counts towards n. Of the drafts with the winning answer the likeliest is served where
logprobs are known, else the first. Further choices are one draft per answer, by votes.

Paper: Wang et al. 2022, Self-Consistency (arXiv 2203.11171); Aggarwal et al. 2023, Adaptive-Consistency
    (arXiv 2305.11860) for the stopping rule: the leader, with a votes against b for the next, is safe when
    P(its share > 1/2 | a, b) >= 0.95 under a Beta(a+1, b+1) posterior; 4, 6, 8, 9 votes for b = 0, 1, 2, 3.
Cost: n generations; adaptive: between 4 and n (less only if the rest could not change the winner).
Departures: windows of 4 instead of one draft at a time, since each call pays for the prompt again; the rule also stops
    when the remaining drafts could not overtake the leader.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, NamedTuple

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.rank import Ballot, answer_key, heat
from strop.strategies.kit.vote import leader_is_safe

WINDOW = 4


class Vote(NamedTuple):
    """A draft and its answer in one spelling; None does not vote."""

    draft: Draft
    answer: str | None


async def self_consistency(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=64, description="most drafts to sample")] = 8,
    adaptive: Annotated[bool, Field(description="stop sampling as soon as the leading answer is safe")] = True,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the drafts; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"self_consistency samples n={n} drafts, so it cannot fill {ctx.choices} choices", param="n")
    hot = question.but(temperature=heat(question, temperature))
    drafts = await (_sample_until_safe(ctx, hot, n) if adaptive else ctx.generate(hot, n=n))
    ctx.keep(drafts[0])
    ballot = await Ballot.of(ctx, question, drafts)
    order = ballot.by_votes()
    ctx.note(sampled=len(drafts), groups=ballot.groups, votes=list(ballot.votes().values()), chosen=order[0])
    return [drafts[i] for i in ballot.one_per_answer(order)]


async def _sample_until_safe(ctx: Context, question: Chat, n: int) -> list[Draft]:
    votes: list[Vote] = []

    async def one(_: int) -> Vote:
        [draft] = await ctx.generate(question)
        return Vote(draft, answer_key(question, draft))

    def safe(new: list[Vote]) -> bool:
        return _is_safe([*votes, *new], n)

    while len(votes) < n and not safe([]):
        votes += await ctx.map(one, range(min(WINDOW, n - len(votes))), name="window", until=safe)
        count = Counter(vote.answer for vote in votes if vote.answer)
        ctx.keep(max(votes, key=lambda vote: count[vote.answer or ""]).draft)
    return [vote.draft for vote in votes]


def _is_safe(votes: list[Vote], n: int) -> bool:
    """Answers written differently count apart here, so equal ones that are not recognised only make it sample more."""
    count = Counter(vote.answer for vote in votes if vote.answer)
    first, second = [*(times for _, times in count.most_common(2)), 0, 0][:2]
    return leader_is_safe(first, second) or first - second > n - len(votes)
