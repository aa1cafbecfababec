"""A separate critic model reviews every answer step by step; the actor revises what it rejects; the results vote.

The critic is another model role (an adapter trained to criticise, or a larger model) and sees only the question and one
answer. It ends with a verdict; if it says wrong, the actor answers again with the review before it, and the revision
replaces the answer only if the trust gate strictly prefers it. A review that cannot be read is no evidence. With n
above 1 the samples are reviewed side by side and the most common answer among the outcomes is served. A revision never
wins if it is unfinished, lacks the asked JSON shape, or drops the tool calls of the answer.

Paper: Xi et al. 2024, Enhancing LLM Reasoning via Critique Models (arXiv 2411.16579); the gate after Shridhar et al.
    2023, ART (arXiv 2311.07961); rising temperature and rejected answers after Jiang et al. 2025 (arXiv 2506.11930).
Cost: n generations; then per sample and round 1 critique, 1 revision if the critic objects, and one scoring of two
    drafts unless the gate is none or the revision is ruled out before.
Departures: the critic's role falls back to the policy where the server has no such model; gated; a round ends a
    sample's loop when the gate keeps the old answer, unless avoid or temperature_step make the next one different.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Sampling, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.gate import Avoid, Gate, TemperatureStep, avoiding, needs_messages, objection, warmer
from strop.strategies.kit.parse import yes_no
from strop.strategies.kit.rank import Ballot, heat, shown

CRITIC = Sampling(temperature=0.0, max_tokens=2048)


@dataclass(frozen=True)
class Rules:
    """The knobs of one sample's loop."""

    critic: str
    rounds: int
    gate: str
    temperature_step: float
    avoid: bool


async def critic_actor(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=32, description="answers to sample and review")] = 1,
    critic: Annotated[str, Field(min_length=1, description="model role of the critic: critic, judge, ...")] = "critic",
    rounds: Annotated[int, Field(ge=1, le=8, description="most revisions per sample")] = 1,
    gate: Gate = "pairwise",
    temperature_step: TemperatureStep = 0.0,
    avoid: Avoid = False,
) -> list[Draft]:
    needs_messages(question, "critic_actor")
    if ctx.choices > n:
        raise BadRequest(f"critic_actor samples n={n} drafts, so it cannot fill {ctx.choices} choices", param="n")
    rules = Rules(critic, rounds, gate, temperature_step, avoid)
    drafts = await ctx.generate(question, n=n, temperature=heat(question, None) if n > 1 else None)
    before = await Ballot.of(ctx, question, drafts)
    ctx.keep(drafts[before.by_votes()[0]])

    async def one(i: int) -> tuple[int, Draft]:
        return i, await _improved(ctx, question, drafts[i], rules)

    done = dict(await ctx.map(one, range(len(drafts)), name="sample"))
    after = await Ballot.of(ctx, question, [done.get(i, draft) for i, draft in enumerate(drafts)])
    order = after.by_votes()
    ctx.note(groups=after.groups, revised=[done.get(i, draft) is not draft for i, draft in enumerate(drafts)])
    return [after.drafts[i] for i in after.one_per_answer(order)]


async def _improved(ctx: Context, question: Chat, draft: Draft, rules: Rules) -> Draft:
    """The sample after its rounds."""
    tried: list[str] = []
    why = "rounds"
    for turn in range(rules.rounds):
        texts = {"question": question.transcript(), "candidate": shown(draft)}
        fresh = prompt(ctx, "critic_actor/critique", **texts, sampling=CRITIC)
        [review] = await ctx.generate(fresh, model=rules.critic)
        right = yes_no(review.text) if review.finish != "length" else None
        if right is not False:
            why = "the critic found nothing" if right else "the verdict could not be read"
            break
        asked = prompt(ctx, "critic_actor/revise", candidate=shown(draft), critique=review.text)
        asked = avoiding(ctx, asked, tried) if rules.avoid else asked
        warm = warmer(question, rules.temperature_step, turn)
        [new] = await ctx.generate(question.followed_by(asked), temperature=warm)
        stays = await objection(ctx, question, draft, new, rules.gate)
        tried.append(shown(new if stays else draft))
        if stays and not (rules.avoid or rules.temperature_step):
            why = stays
            break
        draft = draft if stays else new
        ctx.note(turn=turn + 1, stays=stays)
    ctx.note(stopped=why)
    return draft
