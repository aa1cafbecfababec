"""Sample four answers; stop if they agree, ask for more votes if they do not, and repair only what stays in dispute.

Every question starts with one window of four drafts. If their answers can be compared, the leader is served as soon as
it is safe, and further windows of four are drawn until it is, at most n drafts in all; windows share the prompt, so a
prefix cache serves all but the first. If at the end the leader still has less than a share repair_below of the votes,
it is reviewed in a fresh context, revised if the critic objects, and replaced only if the trust gate strictly prefers
the revision. If the answers cannot be compared (prose, or four different one-liners), a judge picks the best of the
first window; without a score the first draft is served. Drafts that are unfinished or lack the asked JSON shape lose to
the others, and tool calls are voted on like answers and never revised away.

Paper: Aggarwal et al. 2023, Adaptive-Consistency (arXiv 2305.11860); Snell et al. 2024 (arXiv 2408.03314) for spending
    by difficulty; Chen et al. 2024, MAgICoRe (arXiv 2409.12147) for repairing only what is hard; the gate after
    Shridhar et al. 2023, ART (arXiv 2311.07961).
Cost: 4 generations when they agree, at most n otherwise; repair: 1 critique, 1 revision if the critic objects, and one
    scoring of two drafts. Answers that cannot be compared: 4 generations and one scoring of them.
Departures: windows of four instead of one draft at a time; difficulty is disagreement, not a reward model's mean score;
    only the leader is repaired, once, and only where its share of the votes, an estimate of the chance that it is
    right, is below the break-even point of revising (0.5 unless you have measured yours).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.gate import Gate
from strop.strategies.kit.parse import extract
from strop.strategies.kit.rank import Ballot, heat, structured
from strop.strategies.kit.vote import Result, leader_is_safe, majority
from strop.strategies.self_refine import reviewed

WINDOW = 4


async def adaptive(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=4, le=64, description="most drafts to sample")] = 16,
    by: Annotated[
        str,
        Field(min_length=1, description="who picks where answers cannot be compared: judge, none, or another scorer"),
    ] = "judge",
    repair_below: Annotated[
        float, Field(ge=0, le=1, description="share of votes below which the leader is reviewed and revised; 0: never")
    ] = 0.5,
    gate: Gate = "pairwise",
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the drafts; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"adaptive samples at most n={n} drafts, so it cannot fill {ctx.choices} choices", param="n")
    hot = question.but(temperature=heat(question, temperature))
    drafts: list[Draft] = []
    while True:
        drafts += await ctx.generate(hot, n=min(max(WINDOW, ctx.choices - len(drafts)), n - len(drafts)))
        ballot = await Ballot.of(ctx, question, drafts)
        order = ballot.by_votes()
        ctx.keep(drafts[order[0]])
        if not _comparable(question, ballot):
            return await _judged(ctx, question, ballot, by)
        lead = _lead(ballot)
        if _is_safe(lead, n - len(drafts)) or len(drafts) >= n:
            break
    share = lead.share if lead else 0.0
    ctx.note(sampled=len(drafts), groups=ballot.groups, share=share)
    ranked = [drafts[i] for i in ballot.one_per_answer(order)]
    if share >= repair_below or question.prompt is not None:
        return ranked
    repaired, why = await reviewed(ctx, question, ranked[0], gate)
    ctx.note(repaired=why is None, stays=why)
    return ranked if why else [repaired, *ranked]


def _lead(ballot: Ballot) -> Result[int] | None:
    return majority([ballot.groups[i] for i in ballot.voters])


def _is_safe(lead: Result[int] | None, left: int) -> bool:
    """Whether more drafts are unlikely, or too few, to change the winner."""
    first, second = [*sorted(lead.mass.values(), reverse=True), 0, 0][:2] if lead else (0, 0)
    return leader_is_safe(int(first), int(second)) or first - second > left


def _comparable(question: Chat, ballot: Ballot) -> bool:
    """Whether votes mean something: half of the drafts vote, and they agree somewhere or state more than a bare line.

    Greetings and names are bare lines too; four different ones say that no two answers to this question are equal.
    """
    voters = ballot.voters
    if 2 * len(voters) < len(ballot.drafts):
        return False
    if len({ballot.groups[i] for i in voters}) < len(voters):
        return True
    drafts = [ballot.drafts[i] for i in voters]
    found = [None if structured(question, draft) else extract(draft.text) for draft in drafts]
    return any(answer is None or answer.kind != "line" for answer in found)


async def _judged(ctx: Context, question: Chat, ballot: Ballot, by: str) -> list[Draft]:
    """The drafts by score; in the order sampled, finished ones first, where there are no scores."""
    drafts = list(ballot.drafts)
    scores: list[float | None] = [None] * len(drafts)
    if by != "none" and len(drafts) > 1:
        scores = await ctx.score(question, drafts, by=by)
    order = ballot.by_score(scores, weighted=False)
    ctx.keep(drafts[order[0]], scores[order[0]])
    ctx.note(sampled=len(drafts), comparable=False, by=by, scores=scores)
    return [drafts[i] for i in order]
