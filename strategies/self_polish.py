"""Rewrite the question until two answers in a row agree, and serve the answer they agree on.

The question, not the answer, is refined: what is irrelevant goes, conditions are put in order, numbers and requests
stay. The original and each rewritten question are answered under the same rules; when an answer equals the one before
it, the loop ends with that answer. If none do, the majority decides, and the answer to the original question in a tie.
Where that is not the original answer, the trust gate compares the two for the original question, and the original
answer stays unless it strictly loses. A rewritten question that is empty, cut off or unchanged ends the loop.

Paper: Xi et al. 2023, Self-Polish (arXiv 2305.14497); the gate after Shridhar et al. 2023, ART (arXiv 2311.07961).
Cost: 1 generation, then per round 1 rewriting and 1 generation; one scoring of two drafts if another answer than the
    original one is chosen, unless the gate is none.
Departures: no few-shot rewritings; only the last user turn is rewritten; gated; the fallback is the majority.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Sampling, prompt
from strop.strategies.kit.gate import Gate, needs_messages, objection
from strop.strategies.kit.rank import Ballot

EDITOR = Sampling(temperature=0.0, max_tokens=1024)


async def self_polish(
    ctx: Context,
    question: Chat,
    rounds: Annotated[int, Field(ge=1, le=8, description="most rewritings")] = 3,
    gate: Gate = "pairwise",
) -> Draft:
    needs_messages(question, "self_polish")
    drafts = await ctx.generate(question)
    ctx.keep(drafts[0])
    wording, why = question.question, "rounds"
    for _ in range(rounds):
        [edited] = await ctx.generate(prompt(ctx, "self_polish/rewrite", question=wording, sampling=EDITOR))
        polished = edited.text.strip()
        if not polished or edited.finish == "length" or polished == wording:
            why = "the question does not change any more" if polished == wording else "the rewriting failed"
            break
        wording = polished
        drafts += await ctx.generate(_reworded(question, wording))
        ballot = await Ballot.of(ctx, question, drafts)
        if ballot.groups[-1] is not None and ballot.groups[-1] == ballot.groups[-2]:
            why = "two answers agree"
            break
    ballot = await Ballot.of(ctx, question, drafts)
    agreed = len(drafts) - 2 if why == "two answers agree" else _majority(ballot)
    stays = None if agreed == 0 else await objection(ctx, question, drafts[0], drafts[agreed], gate)
    ctx.note(stopped=why, wording=wording, groups=ballot.groups, chosen=0 if stays else agreed, stays=stays)
    return drafts[0 if stays else agreed]


def _majority(ballot: Ballot) -> int:
    """The first draft of the answer that most give, and the original one if nobody has more votes than it."""
    votes = ballot.votes()
    best = max(votes, key=lambda group: votes[group], default=None)
    own = ballot.groups[0]
    if best is None or (0 in ballot.voters and own is not None and votes[own] == votes[best]):
        return 0
    return next(i for i in ballot.voters if ballot.groups[i] == best)


def _reworded(question: Chat, wording: str) -> Chat:
    """The conversation with other words in its last user turn."""
    last = max((i for i, message in enumerate(question.messages) if message.role == "user"), default=None)
    turns = [replace(m, content=wording) if i == last else m for i, m in enumerate(question.messages)]
    return replace(question, messages=tuple(turns), tag="reworded")
