"""Make a reasoning model think less: after `most` tokens of thinking, end it and have the answer written.

The model thinks for at most `most` tokens. If it has not ended its thinking by then, a sentence that concludes and the
end of thinking are inserted, and it writes its answer from what it has. A model that ends in time is not interrupted.
Only for models that think in the text, between <think> and </think>: any other is cut short. Tools and structured
output are left alone. The answer is streamed as it is written, with the thinking before it.

Paper: Muennighoff et al. 2025, s1 (arXiv 2501.19393): budget forcing, the upper bound.
Cost: at most 2 generations over a cached prefix; at most `most` tokens of thinking, the inserted words, and the answer.
Departures: the concluding sentence is ours (s1 appends "Final Answer:"). The end of thinking is recognised by its text
    (`end`), not by a token id. A client's max_tokens bounds the whole turn.
Requires: prefix
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Prefix, prompt
from strop.strategies.kit.errors import ContextTooLong
from strop.strategies.kit.thinking import ended_at, gap, room_after, single_turn, stuck, unfinished


async def think_less(
    ctx: Context,
    question: Chat,
    most: Annotated[int, Field(ge=16, le=65536, description="tokens of thinking at most")] = 1024,
    end: Annotated[str, Field(min_length=1, description="what ends the thinking")] = "</think>",
) -> Draft:
    if single_turn(question):
        ctx.note(forced=False, why="tools or structured output")
        return (await ctx.generate(question, final=True))[0]
    limit = question.sampling.max_tokens
    room = most if limit is None else min(most, limit)
    least = min(question.sampling.min_tokens, room)
    stops = (*question.sampling.stop, end)
    [draft] = await ctx.generate(question, stop=stops, max_tokens=room, min_tokens=least)
    ended = ended_at(draft, end, question)
    ctx.keep(unfinished(draft) if ended else draft)
    over = not ended and (draft.finish != "length" or draft.clipped or room == limit)
    ctx.note(forced=not ended and not over, thought=draft.n_tokens)
    if over:
        return draft
    conclusion = "" if ended else prompt(ctx, "think_less/conclude").question + "\n"
    prefix = Prefix(draft, f"{gap(draft)}{conclusion}{end}\n\n")
    after = room_after(question, prefix)
    if after is None:
        return unfinished(draft)
    try:
        [answer] = await ctx.generate(question, prefix=prefix, final=True, **after)
    except ContextTooLong:
        return stuck(prefix)
    return answer
