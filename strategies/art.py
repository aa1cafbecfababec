"""Ask, refine, trust: questions about the answer decide whether to revise, and a ranker whom to believe.

The asker, in a fresh context, breaks the request into sub-questions and says for each whether the answer settles it. If
all are settled, or the reply cannot be read, the answer is served. Otherwise the model answers again with the open
sub-questions before it, and the truster compares old and new: the old answer stays unless it strictly loses. A revision
never wins if it is unfinished, lacks the asked JSON shape, or drops the tool calls of the answer.

Paper: Shridhar et al. 2023, The ART of LLM Refinement (arXiv 2311.07961).
Cost: 2 generations; 3 with an open sub-question, and then one scoring of two drafts unless the gate is none or the
    revision is ruled out before.
Departures: the asker is a model role that is prompted (the paper trains a small model), and so is the truster unless
    the gate names a reward model; one revision.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Sampling, prompt
from strop.strategies.kit.gate import Gate, needs_messages, objection
from strop.strategies.kit.parse import verdict_json, yes_no
from strop.strategies.kit.rank import shown

ASKER = Sampling(temperature=0.0, max_tokens=1024)


async def art(
    ctx: Context,
    question: Chat,
    asker: Annotated[str, Field(min_length=1, description="model role that asks: asker, judge, policy, ...")] = "asker",
    gate: Gate = "pairwise",
) -> Draft:
    needs_messages(question, "art")
    [draft] = await ctx.generate(question)
    ctx.keep(draft)
    texts = {"question": question.transcript(), "candidate": shown(draft)}
    [reply] = await ctx.generate(prompt(ctx, "art/ask", **texts, sampling=ASKER), model=asker)
    found = open_questions(reply.text)
    if not found:
        ctx.note(stopped="the questions could not be read" if found is None else "nothing is open")
        return draft
    asked = prompt(ctx, "art/refine", candidate=shown(draft), open="\n".join(f"- {one}" for one in found))
    [new] = await ctx.generate(question.followed_by(asked))
    why = await objection(ctx, question, draft, new, gate)
    ctx.note(open=found, stopped=why or "revised")
    return draft if why else new


def open_questions(text: str) -> list[str] | None:
    """The sub-questions that the answer does not settle; None if any entry cannot be read, or there are none."""
    found = (verdict_json(text) or {}).get("questions")
    rows = [row if isinstance(row, dict) else {} for row in found] if isinstance(found, list) else []
    asked = [row.get("question") for row in rows]
    settled = [yes_no(str(row.get("answered"))) for row in rows]
    if not rows or None in settled:
        return None
    texts = [one.strip() if isinstance(one, str) else "" for one in asked]
    if not all(texts):
        return None
    return [one for one, fine in zip(texts, settled, strict=True) if not fine]
