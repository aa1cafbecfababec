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
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.parse import yes_no
from strop.strategies.kit.rank import Ballot, shown

CRITIC = Sampling(temperature=0.0, max_tokens=1024)


async def self_refine(
    ctx: Context,
    question: Chat,
    rounds: Annotated[int, Field(ge=1, le=8, description="most revisions")] = 1,
    gate: Annotated[
        str,
        Field(min_length=1, description="who must prefer the revision: pairwise, judge, none, or a registered scorer"),
    ] = "pairwise",
) -> Draft:
    if question.prompt is not None:
        raise BadRequest("self_refine needs messages, not a raw prompt", param="prompt")
    [draft] = await ctx.generate(question)
    ctx.keep(draft)
    why = "rounds"
    for turn in range(1, rounds + 1):
        critique = await _critique(ctx, question, draft)
        right = yes_no(critique.text) if critique.finish != "length" else None
        if right is not False:
            why = "the critic found nothing" if right else "the verdict could not be read"
            break
        asked = prompt(ctx, "self_refine/revise", candidate=shown(draft), critique=critique.text)
        [new] = await ctx.generate(question.followed_by(asked))
        if objection := await _objection(ctx, question, draft, new, gate):
            why = objection
            break
        draft = new
        ctx.keep(draft)
        ctx.note(accepted=turn)
    ctx.note(stopped=why)
    return draft


async def _critique(ctx: Context, question: Chat, draft: Draft) -> Draft:
    fresh = prompt(ctx, "self_refine/critique", question=question.transcript(), candidate=shown(draft), sampling=CRITIC)
    return (await ctx.generate(fresh))[0]


async def _objection(ctx: Context, question: Chat, old: Draft, new: Draft, gate: str) -> str | None:
    """Why the old draft stays; None when the new one replaces it."""
    if old.tool_calls and not new.tool_calls:
        return "the revision dropped the tool calls"
    ballot = await Ballot.of(ctx, question, [old, new])
    if ballot.flaws[1] > ballot.flaws[0] or ballot.flaws[1] > 1:
        return "the revision is unfinished or has the wrong shape"
    if shown(new) == shown(old) or (ballot.groups[0] is not None and ballot.groups[0] == ballot.groups[1]):
        return "the revision gives the same answer"
    if gate == "none":
        return None
    before, after = await ctx.score(question, [old, new], by=gate)
    if before is None or after is None:
        return "the gate could not tell"
    return None if after > before else "the gate prefers the old answer"
