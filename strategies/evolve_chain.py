"""Answer, then improve the answer again and again without a critique, and serve the best of the chain.

Each link sees the question and the answer before it and is asked for a better one. At the end one scorer, outside the
chain, scores all links for the question alone, and the best is served; the earlier of two equal ones, so the first
answer stays unless a later one strictly beats it (the trust gate). Links without a score cannot win against scored
ones. A link that is unfinished, lacks the asked JSON shape, or drops the tool calls of the first answer ends the chain.

Paper: Zeng et al. 2025, EVOLVE (arXiv 2502.05605): inference by a chain of refinements and a reward model; rising
    temperature after Jiang et al. 2025, Feedback Friction (arXiv 2506.11930).
Cost: length generations, and one scoring of them.
Departures: works with any model, though the paper finds that models not trained for it degrade along the chain, which
    is what the scorer is for; a link that repeats its predecessor word for word ends the chain.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, prompt
from strop.strategies.kit.gate import TemperatureStep, disqualified, needs_messages, warmer
from strop.strategies.kit.rank import Ballot, shown


async def evolve_chain(
    ctx: Context,
    question: Chat,
    length: Annotated[int, Field(ge=2, le=16, description="answers in the chain, the first one included")] = 4,
    by: Annotated[
        str, Field(min_length=1, description="who scores them: judge, pairwise, or another scorer")
    ] = "judge",
    temperature_step: TemperatureStep = 0.0,
) -> Draft:
    needs_messages(question, "evolve_chain")
    chain = await ctx.generate(question)
    ctx.keep(chain[0])
    for turn in range(length - 1):
        asked = question.followed_by(prompt(ctx, "evolve_chain/better", candidate=shown(chain[-1])))
        [new] = await ctx.generate(asked, temperature=warmer(question, temperature_step, turn))
        why = await disqualified(ctx, question, chain[0], new)
        if why or shown(new) == shown(chain[-1]):
            ctx.note(ended=why or "the answer does not change any more")
            break
        chain.append(new)
    if len(chain) == 1:
        return chain[0]
    scores = await ctx.score(question, chain, by=by)
    ballot = await Ballot.of(ctx, question, chain)
    best = ballot.by_score(scores, weighted=False)[0] if any(score is not None for score in scores) else 0
    ctx.note(scores=scores, chosen=best)
    return chain[best]
