"""Sample several answers, have each reviewed, drop the rejected ones, and let the rest vote.

Each review is made in a fresh context and sees one answer only. A review that cannot be read is no evidence: its answer
stays in. If all answers are rejected, or those that passed cannot be compared, the plain majority of all decides. So a
critic that is better than chance breaks ties and outvotes popular errors, and one that rejects everything does no harm.
Unfinished drafts and those that lack the asked JSON shape lose to the others.

Paper: Luo et al. 2023, Critique Ability of Large Language Models (arXiv 2310.04815): self-check.
Cost: n generations and n critiques; a single draft is not reviewed, and neither are drafts that all agree.
Departures: no few-shot critiques; the prompt allows for a right answer; unanimous drafts are served without a review.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Sampling, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.parse import yes_no
from strop.strategies.kit.rank import Ballot, heat, shown

CRITIC = Sampling(temperature=0.0, max_tokens=1024)


async def self_check(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=64, description="drafts to sample")] = 8,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the drafts; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"self_check samples n={n} drafts, so it cannot fill {ctx.choices} choices", param="n")
    drafts = await ctx.generate(question, n=n, temperature=heat(question, temperature))
    plain = await Ballot.of(ctx, question, drafts)
    ctx.keep(drafts[plain.by_votes()[0]])
    if len(set(plain.groups)) == 1 and plain.groups[0] is not None:
        return [drafts[i] for i in plain.by_votes()]
    verdicts = await _verdicts(ctx, question, drafts) if len(drafts) > 1 else [None]
    rejected = [verdict is False for verdict in verdicts]
    checked = Ballot(drafts, plain.groups, [2 * flaw + out for flaw, out in zip(plain.flaws, rejected, strict=True)])
    ballot = checked if checked.voters and not all(rejected) else plain
    order = ballot.by_votes()
    ctx.note(verdicts=verdicts, groups=plain.groups, chosen=order[0], fallback=ballot is plain)
    return [drafts[i] for i in ballot.one_per_answer(order)]


async def _verdicts(ctx: Context, question: Chat, drafts: list[Draft]) -> list[bool | None]:
    """Whether each draft is right, as far as its review tells; None for one that the budget left out."""

    async def one(i: int) -> tuple[int, bool | None]:
        texts = {"question": question.transcript(), "candidate": shown(drafts[i])}
        [review] = await ctx.generate(prompt(ctx, "self_check/critique", **texts, sampling=CRITIC))
        return i, yes_no(review.text) if review.finish != "length" else None

    said = dict(await ctx.map(one, range(len(drafts)), name="critique"))
    return [said.get(i) for i in range(len(drafts))]
