"""Several agents answer, read each other's answers, and answer again; the majority is served.

In each round every agent gets its own last answer and those of the others, and may change its mind. The debate ends
when all agree. If its winner is not what the majority said at the start, the trust gate compares the two in a fresh
context, and the first majority stays unless it strictly loses. An answer that is unfinished, lacks the asked JSON
shape, or drops the tool calls of its predecessor does not replace it.

Paper: Du et al. 2023, Improving Factuality and Reasoning through Multiagent Debate (arXiv 2305.14325); the gate after
    Shridhar et al. 2023, ART (arXiv 2311.07961).
Cost: agents generations, and as many again per round; one scoring of two drafts if the debate changed the winner.
    Agents that agree from the start do not debate. Prompts grow with the number of agents.
Departures: the answers are fenced data in one user turn instead of a growing dialogue, and only the last round is in
    view; gated.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, prompt
from strop.strategies.kit.gate import Gate, TemperatureStep, disqualified, needs_messages, objection, warmer
from strop.strategies.kit.rank import Ballot, heat, shown


async def debate(
    ctx: Context,
    question: Chat,
    agents: Annotated[int, Field(ge=2, le=16, description="how many answers take part")] = 3,
    rounds: Annotated[int, Field(ge=1, le=8, description="most rounds of reading the others")] = 1,
    gate: Gate = "pairwise",
    temperature_step: TemperatureStep = 0.0,
) -> Draft:
    needs_messages(question, "debate")
    hot = question.but(temperature=heat(question, None))
    drafts = await ctx.generate(hot, n=agents)
    ballot = await Ballot.of(ctx, question, drafts)
    first = drafts[ballot.by_votes()[0]]
    ctx.keep(first)
    for turn in range(rounds):
        if len(drafts) < 2 or (ballot.groups[0] is not None and len(set(ballot.groups)) == 1):
            break
        drafts = await _heard(ctx, question, drafts, warmer(hot, temperature_step, turn) or hot.sampling.temperature)
        ballot = await Ballot.of(ctx, question, drafts)
        ctx.note(round=turn + 1, groups=ballot.groups)
    last = drafts[ballot.by_votes()[0]]
    why = "the majority did not change" if last is first else await objection(ctx, question, first, last, gate)
    ctx.note(stopped=why or "the majority changed")
    return first if why else last


async def _heard(ctx: Context, question: Chat, drafts: list[Draft], temperature: float | None) -> list[Draft]:
    """Every agent's next answer; its old one where the new one may not stand or was not paid for."""

    async def one(i: int) -> tuple[int, Draft]:
        others = "\n\n---\n\n".join(shown(other) for k, other in enumerate(drafts) if k != i)
        asked = prompt(ctx, "debate/hear", candidate=shown(drafts[i]), others=others)
        [new] = await ctx.generate(question.followed_by(asked), temperature=temperature)
        return i, drafts[i] if await disqualified(ctx, question, drafts[i], new) else new

    done = dict(await ctx.map(one, range(len(drafts)), name="agent"))
    return [done.get(i, draft) for i, draft in enumerate(drafts)]
