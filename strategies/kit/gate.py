"""Whether to revise at all, and whether to trust the revision: what every revise loop shares.

The trust gate keeps the old answer unless a fresh look strictly prefers the new one. A tie, a missing score, a lost
tool call, an unfinished or misshapen revision: the old answer stays.

Accuracy after one revision is p CL + (1 - p) CS, where CL is the share of right answers that stay right and CS the
share of wrong ones that get repaired, both measured with the gate in place. So revising a question pays exactly if the
chance that its answer is right is below p* = CS / (CS + 1 - CL), `break_even`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from strop.strategies.kit.context import Context
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.prompts import prompt
from strop.strategies.kit.rank import Ballot, shown
from strop.strategies.kit.types import Chat, Draft

Gate = Annotated[
    str, Field(min_length=1, description="who must prefer the revision: pairwise, judge, none, or a registered scorer")
]
TemperatureStep = Annotated[
    float, Field(ge=0, le=1, description="added to the temperature in each further round, up to 1.5; 0: as requested")
]
Avoid = Annotated[bool, Field(description="show the model its earlier answers that did not pass")]

HOTTEST = 1.5
"""No round is raised above this temperature (arXiv 2506.11930)."""


def break_even(keeps: float, fixes: float) -> float:
    """p* = CS / (CS + 1 - CL): revise only where the answer is right with a lower probability than this.

    `keeps` is CL, `fixes` is CS. 0 if nothing is ever repaired. Raises ValueError outside [0, 1].
    """
    if not (0 <= keeps <= 1 and 0 <= fixes <= 1):
        raise ValueError(f"CL={keeps} and CS={fixes} must be probabilities")
    return fixes / (fixes + 1 - keeps) if fixes else 0.0


async def objection(ctx: Context, question: Chat, old: Draft, new: Draft, by: str) -> str | None:
    """Why the old draft stays; None when the new one replaces it. `by` is a scorer, or "none" for no comparison."""
    ballot = await Ballot.of(ctx, question, [old, new])
    if flaw := _flaw(ballot):
        return flaw
    if shown(new) == shown(old) or (ballot.groups[0] is not None and ballot.groups[0] == ballot.groups[1]):
        return "the revision gives the same answer"
    if by == "none":
        return None
    before, after = await ctx.score(question, [old, new], by=by)
    if before is None or after is None:
        return "the gate could not tell"
    return None if after > before else "the gate prefers the old answer"


async def disqualified(ctx: Context, question: Chat, old: Draft, new: Draft) -> str | None:
    """Why the new draft cannot win whatever anybody thinks of it; None if it may. No scorer is asked."""
    return _flaw(await Ballot.of(ctx, question, [old, new]))


def _flaw(ballot: Ballot) -> str | None:
    old, new = ballot.drafts
    if old.tool_calls and not new.tool_calls:
        return "the revision dropped the tool calls"
    if ballot.flaws[1] > ballot.flaws[0] or ballot.flaws[1] > 1:
        return "the revision is unfinished or has the wrong shape"
    return None


def warmer(question: Chat, step: float, turn: int) -> float | None:
    """The temperature of revision `turn` (from 0): the request's, or 0 without one, plus `step` per turn before it.

    None, which leaves the request alone, while nothing is added.
    """
    if not step * turn:
        return None
    asked = question.sampling.temperature or 0.0
    return max(asked, min(HOTTEST, asked + step * turn))


def avoiding(ctx: Context, asked: Chat, tried: Sequence[str]) -> Chat:
    """The prompt `asked`, with the answers tried before and the request not to repeat them at its end."""
    if not tried:
        return asked
    more = prompt(ctx, "gate/avoid", tried="\n\n".join(dict.fromkeys(tried))).messages[-1].content
    *turns, last = asked.messages
    return replace(asked, messages=(*turns, replace(last, content=f"{last.content}\n\n{more}")))


def needs_messages(question: Chat, strategy: str) -> None:
    """Raise `BadRequest` for a raw prompt: it has no turn that a review could follow."""
    if question.prompt is not None:
        raise BadRequest(f"{strategy} needs messages, not a raw prompt", param="prompt")
