"""Make the model rethink inside one answer, at ever longer intervals.

After a first stretch of tokens a trigger sentence is inserted into the running answer; the model goes on from there,
with its earlier attempt in view, and is interrupted again after a longer stretch. What was written stays (so each call
only adds to a cached prefix) and is streamed as soon as it cannot change. The cut is at the last paragraph or sentence
end within 64 tokens; where there is none, inside code, or once the answer is given, the trigger is skipped. A
client's max_tokens bounds the whole answer, triggers included. Tools and structured output turn triggers off.

Paper: Chen, Koenig and Dilkina 2025, Iterative Deepening Sampling (arXiv 2502.05449).
Cost: one generation per stretch, at most max_triggers + 1; the extra tokens are the triggers and what follows them. In
    the cumulative schedule an answer of L >= first tokens meets 1 + floor(log(L / first) / log(growth)) triggers.
    keep=false: first, first * growth, ... tokens from scratch, in total at most L * growth / (growth - 1).
Departures: the paper gives no code and no values: first=512, growth=2 and max_triggers=6 are ours, and the trigger is
    the sentence of Marco-o1 (arXiv 2411.14405). keep=false restarts instead of inserting a trigger (classic iterative
    deepening).
Requires: prefix
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Prefix, prompt
from strop.strategies.kit.boundary import last_boundary, last_token_boundary, safe_to_interrupt
from strop.strategies.kit.errors import ContextTooLong

WITHIN = 64
"""Tokens at the end of a stretch in which to look for a place to cut."""
CHARACTERS = 4
"""Per token, where the engine does not report tokens."""


async def id_sampling(
    ctx: Context,
    question: Chat,
    first: Annotated[int, Field(ge=16, le=65536, description="tokens before the first trigger")] = 512,
    growth: Annotated[float, Field(gt=1, le=16, description="ratio of one interval to the one before")] = 2.0,
    max_triggers: Annotated[int, Field(ge=0, le=64, description="most triggers in one answer")] = 6,
    schedule: Annotated[
        Literal["cumulative", "segment"], Field(description="what grows: total length at a trigger, or each segment")
    ] = "cumulative",
    keep: Annotated[bool, Field(description="keep the attempt in context; false: start again with more room")] = True,
) -> Draft:
    limit = question.sampling.max_tokens
    if question.format.kind != "text" or (question.tools and question.tool_choice.mode != "none"):
        ctx.note(triggers=0, why="tools or structured output")
        return (await ctx.generate(question, final=True))[0]
    trigger = prompt(ctx, "id_sampling/trigger").question if keep else ""
    draft, prefix, triggers, skipped, committed = Draft(""), None, 0, 0, 0
    for turn in range(max_triggers + 1):
        stretch = first * growth**turn
        start = _length(prefix) if keep else 0
        goal = int(stretch + (start if schedule == "segment" else 0)) if turn < max_triggers else limit
        goal = goal if limit is None or goal is None else min(goal, limit)
        room = None if goal is None else max(1, goal - start)
        least = max(0, question.sampling.min_tokens - start)
        least = least if room is None else min(least, room)
        try:
            [draft] = await ctx.generate(question, prefix=prefix, max_tokens=room, min_tokens=least)
        except ContextTooLong:
            if not draft.text:
                return (await ctx.generate(question))[0]
            break
        ctx.keep(draft)
        if _is_over(draft, room, limit):
            break
        if keep:
            prefix = _interrupted(draft, prefix, trigger, limit)
            triggers, skipped = triggers + bool(prefix.inject), skipped + (not prefix.inject)
            ctx.commit(prefix.draft.text[committed:] if prefix.inject else "")
            committed = max(committed, len(prefix.draft.text) if prefix.inject else 0)
    ctx.note(triggers=triggers, skipped=skipped, tokens=draft.n_tokens)
    return draft.cut(limit) if limit is not None and len(draft.tokens.texts) > limit else draft


def _length(prefix: Prefix | None) -> int:
    """Tokens that are there before the model goes on. The trigger's are known once it has been used, else estimated."""
    if prefix is None:
        return 0
    used = [end - start for start, end in prefix.draft.injected]
    return prefix.draft.n_tokens + (
        0 if not prefix.inject else used[-1] if used else len(prefix.inject) // CHARACTERS + 1
    )


def _is_over(draft: Draft, room: int | None, limit: int | None) -> bool:
    """The model stopped by itself, or something other than this stretch's end stopped it."""
    full = limit is not None and draft.n_tokens >= limit
    return draft.finish != "length" or draft.clipped or full or room is None


def _interrupted(draft: Draft, last: Prefix | None, trigger: str, limit: int | None) -> Prefix:
    """The draft cut where a trigger may follow; uncut and without a trigger when there is no such place or no room."""
    cut = _cut(draft, last) if safe_to_interrupt(draft.text) else None
    if cut is None or not safe_to_interrupt(cut.text):
        return Prefix(draft)
    gap = "\n\n"[len(cut.text) - len(cut.text.rstrip("\n")) :]
    interrupted = Prefix(cut, f"{gap}{trigger}\n\n")
    return Prefix(draft) if limit is not None and limit <= _length(interrupted) else interrupted


def _cut(draft: Draft, last: Prefix | None) -> Draft | None:
    """The draft up to the last boundary in its newest tokens (without tokens: in as much text); None without one."""
    texts, fixed = draft.tokens.texts, last.draft.text + last.inject if last else ""
    if texts:
        new = draft.n_tokens - (_length(last) if last else 0)
        count = last_token_boundary(texts, min(WITHIN, max(0, new - 1)))
        return None if count is None else draft.cut(count)
    new = len(draft.text) - len(fixed) - 1
    count = last_boundary(draft.text, min(WITHIN * CHARACTERS, max(0, new)))
    if count is None:
        return None
    kept = round(draft.n_tokens * count / len(draft.text))
    return replace(draft, text=draft.text[:count], n_tokens=kept, finish="length")
