"""Answer, have the answer reviewed, revise it, and keep the revision only if a fresh look prefers it.

Each round: a critic that sees only the question and the candidate ends with a verdict; if it says wrong, the model
answers again with the review before it; a trust gate compares old and new in a fresh context, and the old answer stays
unless the new one is strictly preferred. Ungated, the loop makes strong models worse: they revise right answers away.
A revision never wins if it is unfinished, lacks the asked JSON shape, or drops the tool calls of the old answer.

Paper: Madaan et al. 2023, Self-Refine (arXiv 2303.17651); the gate after Shridhar et al. 2023, ART (arXiv 2311.07961);
    Huang et al. 2023 (arXiv 2310.01798) on why ungated self-correction fails.
Cost: 1 generation, then per round 1 critique, 1 revision if the critic objects, and one scoring of two drafts unless
    the gate is none or the revision is ruled out before (pairwise: 2 judgements, judge: 2). At most rounds rounds.
Departures: no few-shot prompts; the critic works in a fresh context and may find nothing (the paper's prompt for
    mathematics asserts that there is an error); no history of earlier rounds; gated; stops when the critic is content
    or unreadable, when the revision gives the same answer, and when the gate keeps the old one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Sampling, prompt
from strop.strategies.kit.gate import Gate, needs_messages, objection
from strop.strategies.kit.parse import yes_no
from strop.strategies.kit.rank import shown

CRITIC = Sampling(temperature=0.0, max_tokens=1024)


async def self_refine(
    ctx: Context,
    question: Chat,
    rounds: Annotated[int, Field(ge=1, le=8, description="most revisions")] = 1,
    gate: Gate = "pairwise",
) -> Draft:
    needs_messages(question, "self_refine")
    [draft] = await ctx.generate(question)
    ctx.keep(draft)
    why: str | None = None
    for turn in range(1, rounds + 1):
        draft, why = await reviewed(ctx, question, draft, gate)
        if why:
            break
        ctx.keep(draft)
        ctx.note(accepted=turn)
    ctx.note(stopped=why or "rounds")
    return draft


async def reviewed(ctx: Context, question: Chat, draft: Draft, gate: str) -> tuple[Draft, str | None]:
    """One round: the revision, if there is one and the gate lets it through; else the draft and why it stays."""
    fresh = prompt(ctx, "self_refine/critique", question=question.transcript(), candidate=shown(draft), sampling=CRITIC)
    [critique] = await ctx.generate(fresh)
    right = yes_no(critique.text) if critique.finish != "length" else None
    if right is not False:
        return draft, "the critic found nothing" if right else "the verdict could not be read"
    asked = prompt(ctx, "self_refine/revise", candidate=shown(draft), critique=critique.text)
    [new] = await ctx.generate(question.followed_by(asked))
    why = await objection(ctx, question, draft, new, gate)
    return (draft, why) if why else (new, None)
