"""Solve the question in several ways, contrast the answers, and revise them by what sets them apart.

The model first writes a few different approaches to this question and answers along each. If the answers differ, one
draft of each (at most four) goes into a contrast in a fresh context, which lists where they part ways as a checklist;
each is then revised with it, and the revisions vote, the earlier majority first in a tie. The trust gate compares the
winner with the leading answer before the contrast, which stays unless it strictly loses. Approaches that cannot be read
are replaced by plain samples. A revision that drops tool calls, is unfinished or misshapen does not replace its draft.

Paper: Zhang et al. 2024, Self-Contrast (arXiv 2401.02009); the gate after Shridhar et al. 2023 (arXiv 2311.07961).
Cost: 1 plan and approaches generations; if the answers differ 1 contrast, 1 revision of each that takes part (at most
    4), and one scoring of two drafts unless the gate is none or the winner gives the leading answer.
Departures: different answers are told apart by comparing them, not by clustering embeddings; one contrast of all
    instead of pairs; one revision instead of revising until consistent; gated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Sampling, prompt
from strop.strategies.kit.gate import Gate, disqualified, needs_messages, objection
from strop.strategies.kit.parse import verdict_json
from strop.strategies.kit.rank import Ballot, heat, shown

PLANNER = Sampling(temperature=0.0, max_tokens=1024)
MOST = 4
"""Answers that take part in a contrast."""


async def self_contrast(
    ctx: Context,
    question: Chat,
    approaches: Annotated[int, Field(ge=2, le=8, description="ways to solve the question")] = 4,
    gate: Gate = "pairwise",
) -> Draft:
    needs_messages(question, "self_contrast")
    drafts = await _solved(ctx, question, approaches)
    ballot = await Ballot.of(ctx, question, drafts)
    order = ballot.one_per_answer(ballot.by_votes())
    leader = drafts[order[0]]
    ctx.keep(leader)
    seen: set[int] = set()
    rivals: list[Draft] = []
    for i in order:
        group = ballot.groups[i]
        if group is None or group not in seen:
            rivals.append(drafts[i])
            seen |= set() if group is None else {group}
    if len(rivals) < 2:
        ctx.note(stopped="all agree", groups=ballot.groups)
        return leader
    revised = await _contrasted(ctx, question, rivals[:MOST])
    best = revised[(await Ballot.of(ctx, question, revised)).by_votes()[0]]
    why = "nothing changed" if best is leader else await objection(ctx, question, leader, best, gate)
    ctx.note(stopped=why or "revised", groups=ballot.groups)
    return leader if why else best


async def _solved(ctx: Context, question: Chat, count: int) -> list[Draft]:
    """One draft per approach, or as many plain samples where the plan cannot be read."""
    asked = prompt(ctx, "self_contrast/plan", question=question.transcript(), count=str(count), sampling=PLANNER)
    [reply] = await ctx.generate(asked)
    found = (verdict_json(reply.text) or {}).get("approaches")
    ways = [way.strip() for way in found if isinstance(way, str) and way.strip()] if isinstance(found, list) else []
    ctx.note(approaches=ways[:count])
    last = max((i for i, message in enumerate(question.messages) if message.role == "user"), default=None)
    if len(ways) < 2 or last is None:
        return await ctx.generate(question, n=count, temperature=heat(question, None))

    async def one(way: str) -> Draft:
        hint = prompt(ctx, "self_contrast/solve", approach=way).question
        turns = [
            replace(m, content=f"{m.content}\n\n{hint}") if i == last else m for i, m in enumerate(question.messages)
        ]
        return (await ctx.generate(replace(question, messages=tuple(turns), tag="solve")))[0]

    return await ctx.map(one, ways[:count], name="approach")


async def _contrasted(ctx: Context, question: Chat, rivals: list[Draft]) -> list[Draft]:
    """The rivals after a revision by what sets them apart; as they were where that may not stand."""
    answers = "\n\n---\n\n".join(shown(rival) for rival in rivals)
    texts = {"question": question.transcript(), "answers": answers}
    [contrast] = await ctx.generate(prompt(ctx, "self_contrast/contrast", **texts, sampling=PLANNER))

    async def one(i: int) -> tuple[int, Draft]:
        asked = prompt(ctx, "self_contrast/revise", candidate=shown(rivals[i]), checklist=contrast.text)
        [new] = await ctx.generate(question.followed_by(asked))
        return i, rivals[i] if await disqualified(ctx, question, rivals[i], new) else new

    done = dict(await ctx.map(one, range(len(rivals)), name="revise"))
    return [done.get(i, rival) for i, rival in enumerate(rivals)]
