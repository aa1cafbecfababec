"""Turn the request into a checklist once, serve the draft that meets most of it, and repair what that one lacks.

The checklist holds yes-or-no questions about what the request asks for, made from the request alone, before any draft
is read. Each draft is checked in a fresh context; its score is the share of items met. With rounds above 0 the best
draft is revised with its unmet items and the reasons, checked again, and replaced only if strictly more items are met
(the trust gate). A check that cannot be read, or does not cover every item, is no score; without a checklist or any
score the majority decides, else the first finished draft. Unfinished drafts and those that lack the asked JSON shape
lose to the others; tool calls are never revised away.

Paper: Cook et al. 2024, TICKing All the Boxes (arXiv 2410.03608): STICK; rising temperature and rejected answers after
    Jiang et al. 2025, Feedback Friction (arXiv 2506.11930).
Cost: n generations, 1 checklist, n checks; then per round 1 revision and 1 check. Of one draft without rounds there is
    nothing to choose, so it costs 1 generation.
Departures: no few-shot prompts; one check answers all items of a draft instead of one call per item; at most items
    questions; a rejected revision ends the loop unless avoid or temperature_step make the next one different.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Sampling, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.gate import Avoid, TemperatureStep, avoiding, disqualified, needs_messages, warmer
from strop.strategies.kit.parse import verdict_json, yes_no
from strop.strategies.kit.rank import Ballot, heat, shown

CHECKER = Sampling(temperature=0.0, max_tokens=1024)


@dataclass(frozen=True)
class Check:
    """How a draft does: the share of items met, and the unmet ones with the reasons."""

    rate: float
    unmet: str


async def checklist(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=32, description="drafts to sample")] = 4,
    items: Annotated[int, Field(ge=1, le=16, description="most items of the checklist")] = 8,
    rounds: Annotated[int, Field(ge=0, le=8, description="most revisions of the best draft")] = 0,
    temperature_step: TemperatureStep = 0.0,
    avoid: Avoid = False,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"checklist samples n={n} drafts, so it cannot fill {ctx.choices} choices", param="n")
    if rounds:
        needs_messages(question, "checklist with rounds")
    drafts = await ctx.generate(question, n=n, temperature=heat(question, None) if n > 1 else None)
    ballot = await Ballot.of(ctx, question, drafts)
    order = ballot.by_votes()
    ctx.keep(drafts[order[0]])
    boxes = await _boxes(ctx, question, items) if rounds or len(drafts) > 1 else []
    if not boxes:
        ctx.note(checklist=None)
        return [drafts[i] for i in order]
    checks = await _checks(ctx, question, drafts, boxes)
    scores = [check.rate if check else None for check in checks]
    order = ballot.by_score(scores, weighted=False) if any(checks) else order
    best, check = drafts[order[0]], checks[order[0]]
    ctx.keep(best, check.rate if check else None)
    ctx.note(checklist=boxes, scores=scores)
    tried: list[str] = []
    for turn in range(rounds):
        if check is None or check.rate == 1.0:
            break
        asked = prompt(ctx, "checklist/revise", candidate=shown(best), unmet=check.unmet)
        asked = avoiding(ctx, asked, tried) if avoid else asked
        [new] = await ctx.generate(question.followed_by(asked), temperature=warmer(question, temperature_step, turn))
        after = None if await disqualified(ctx, question, best, new) else await _check(ctx, question, new, boxes)
        better = after is not None and after.rate > check.rate
        tried.append(shown(best if better else new))
        if better:
            best, check = new, after
            ctx.keep(best, after.rate if after else None)
            ctx.note(accepted=turn + 1, score=after.rate if after else None)
        elif not (avoid or temperature_step):
            break
    return [best, *(drafts[i] for i in order if drafts[i] is not best)]


async def _boxes(ctx: Context, question: Chat, most: int) -> list[str]:
    asked = prompt(ctx, "checklist/build", question=question.transcript(), most=str(most), sampling=CHECKER)
    [reply] = await ctx.generate(asked)
    found = (verdict_json(reply.text) or {}).get("questions")
    boxes = [box.strip() for box in found if isinstance(box, str) and box.strip()] if isinstance(found, list) else []
    return list(dict.fromkeys(boxes))[:most]


async def _checks(ctx: Context, question: Chat, drafts: list[Draft], boxes: list[str]) -> list[Check | None]:
    async def one(i: int) -> tuple[int, Check | None]:
        return i, await _check(ctx, question, drafts[i], boxes)

    done = dict(await ctx.map(one, range(len(drafts)), name="check"))
    return [done.get(i) for i in range(len(drafts))]


async def _check(ctx: Context, question: Chat, draft: Draft, boxes: list[str]) -> Check | None:
    numbered = "\n".join(f"{i}. {box}" for i, box in enumerate(boxes, start=1))
    texts = {"question": question.transcript(), "candidate": shown(draft), "checklist": numbered}
    [reply] = await ctx.generate(prompt(ctx, "checklist/check", **texts, sampling=CHECKER))
    found = (verdict_json(reply.text) or {}).get("items")
    rows = [row if isinstance(row, dict) else {} for row in found] if isinstance(found, list) else []
    met = [yes_no(str(row.get("met"))) for row in rows]
    if len(met) != len(boxes) or None in met:
        return None
    unmet = [f"- {box} {row.get('reason') or ''}" for box, row, ok in zip(boxes, rows, met, strict=True) if not ok]
    return Check(1 - len(unmet) / len(boxes), "\n".join(line.rstrip() for line in unmet))
