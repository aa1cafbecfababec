"""Sample several answers, write one new answer from all of them, and serve it only if it beats the majority's.

The model sees the leading answer and the others and combines what is right in them. The trust gate then compares the
combination with the leader in a fresh context, and the leader stays unless it strictly loses. Samples that all agree
are not combined. A combination never wins if it is unfinished, lacks the asked JSON shape, or drops the tool calls of
the leader; unfinished samples are not shown.

Paper: Wang et al. 2024, Mixture-of-Agents (arXiv 2406.04692) for one answer made from several; Lin et al. 2025,
    SE-Agent (arXiv 2508.02085) for recombining attempts; the gate after Shridhar et al. 2023 (arXiv 2311.07961).
Cost: n generations; if they do not all agree 1 more, and one scoring of two drafts unless the gate is none or the
    combination is ruled out or gives the leader's answer.
Departures: one model and one layer; SE-Agent recombines summaries of whole agent runs, this single answers; gated.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.gate import Gate, needs_messages, objection
from strop.strategies.kit.rank import Ballot, heat, shown


async def recombine(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=2, le=16, description="answers to sample and combine")] = 4,
    gate: Gate = "pairwise",
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the samples; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    needs_messages(question, "recombine")
    if ctx.choices > n:
        raise BadRequest(f"recombine samples n={n} drafts, so it cannot fill {ctx.choices} choices", param="n")
    drafts = await ctx.generate(question, n=n, temperature=heat(question, temperature))
    ballot = await Ballot.of(ctx, question, drafts)
    order = ballot.one_per_answer(ballot.by_votes())
    ranked = [drafts[i] for i in order]
    ctx.keep(ranked[0])
    others = [shown(drafts[i]) for i in order[1:] if ballot.flaws[i] == 0]
    agreed = ballot.groups[0] is not None and len(set(ballot.groups)) == 1
    if agreed or not others:
        ctx.note(stopped="all agree" if agreed else "there is nothing to combine")
        return ranked
    asked = prompt(ctx, "recombine/combine", candidate=shown(ranked[0]), others="\n\n---\n\n".join(others))
    [new] = await ctx.generate(question.followed_by(asked))
    why = await objection(ctx, question, ranked[0], new, gate)
    ctx.note(stopped=why or "combined", groups=ballot.groups)
    return ranked if why else [new, *ranked]
