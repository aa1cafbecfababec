"""The model's own answer, untouched: what every other strategy is compared with.

Streams word by word, and a client's seed reaches the engine as it is, so equal requests give equal answers.

Paper: none; this is plain sampling.
Cost: one generation per choice; no hidden tokens.
Departures: none.
"""

from __future__ import annotations

from strop.strategies.kit import Chat, Context, Draft


async def direct(ctx: Context, question: Chat) -> list[Draft]:
    return await ctx.generate(question, n=ctx.choices, final=True, seed=ctx.seed)
