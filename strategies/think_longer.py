"""Make a reasoning model think longer: when it wants to end its thinking, write "Wait" in place of the end.

Each time the model ends its thinking, the end is dropped, "Wait" is appended, and the model goes on from there; after
`waits` times it may end. What was thought stays in view. A model that answers without thinking, or never ends its
thinking, is left alone; so are tools and structured output. The last stretch is streamed, with all that was before it.

Paper: Muennighoff et al. 2025, s1 (arXiv 2501.19393): budget forcing, the lower bound.
Cost: at most waits + 1 generations over a cached prefix; extra tokens are the words that are inserted and what the
    model thinks after them.
Departures: the end of thinking is recognised by its text (`end`), not by a token id. A client's max_tokens bounds the
    whole turn.
Requires: prefix
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Prefix, prompt
from strop.strategies.kit.errors import ContextTooLong
from strop.strategies.kit.thinking import ended_at, gap, room_after, single_turn, stuck, unfinished


async def think_longer(
    ctx: Context,
    question: Chat,
    waits: Annotated[int, Field(ge=1, le=16, description="times that the end of thinking is dropped")] = 2,
    end: Annotated[str, Field(min_length=1, description="what ends the thinking")] = "</think>",
) -> Draft:
    if single_turn(question):
        ctx.note(waits=0, why="tools or structured output")
        return (await ctx.generate(question, final=True))[0]
    wait = prompt(ctx, "think_longer/wait").question
    stops = (*question.sampling.stop, end)
    prefix: Prefix | None = None
    draft, done = Draft(""), 0
    while (room := room_after(question, prefix)) is not None:
        last = done == waits
        try:
            [draft] = await ctx.generate(question, prefix=prefix, final=last, stop=None if last else stops, **room)
        except ContextTooLong:
            if prefix is None:
                raise
            return stuck(prefix) if last else unfinished(draft)
        if last or not ended_at(draft, end, question):
            ctx.note(waits=done)
            return draft
        ctx.keep(unfinished(draft))
        prefix, done = Prefix(draft, gap(draft) + wait), done + 1
    ctx.note(waits=done, why="no room")
    return unfinished(draft)
