"""Answer, let a program check the answer, revise it with what the program found, and stop as soon as it passes.

Evidence from outside is what makes revising work, so the verifier decides everything: an answer that passes is served
at once, and only a revision that passes can replace the first answer (the trust gate). While revisions fail, each is
made from the latest attempt and what was found in that. If none passes, or the verifier cannot tell, the first answer
is served. A revision that passes still loses if it is unfinished, lacks the asked JSON shape, or drops tool calls.

Paper: Chen et al. 2023, Teaching LLMs to Self-Debug (arXiv 2304.05128); Gou et al. 2023, CRITIC (arXiv 2305.11738);
    Song et al. 2025, ProgCo (arXiv 2501.01264) on programs as verifiers; rising temperature and rejected answers after
    Jiang et al. 2025, Feedback Friction (arXiv 2506.11930).
Cost: 1 generation, and 1 per revision, at most rounds; verifiers are programs and cost no tokens.
Departures: no explanation step between evidence and revision; only the latest attempt is in view (all earlier ones
    with avoid); the verifier is named by the request instead of written by the model.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.gate import Avoid, TemperatureStep, avoiding, disqualified, needs_messages, warmer
from strop.strategies.kit.rank import shown

FORMAT = "format"
OWN = {"chat", "drafts", "by"}
"""Names that a verifier's parameters cannot have."""


async def verify_revise(
    ctx: Context,
    question: Chat,
    by: Annotated[
        str,
        Field(min_length=1, description="the verifier: format (the request's response_format), or a registered one"),
    ] = FORMAT,
    spec: Annotated[
        dict[str, Any] | None, Field(description="parameters of the verifier, such as the schema of json_schema")
    ] = None,
    rounds: Annotated[int, Field(ge=1, le=8, description="most revisions")] = 2,
    temperature_step: TemperatureStep = 0.0,
    avoid: Avoid = False,
) -> Draft:
    needs_messages(question, "verify_revise")
    if OWN & set(spec or ()):
        raise BadRequest(f"a verifier has no parameters named {', '.join(sorted(OWN))}", param="strop.spec")
    [first] = await ctx.generate(question)
    ctx.keep(first)
    name, values = (by, spec or {}) if by != FORMAT else _format(question, first)
    if name is None:
        ctx.note(stopped="the request has no format to verify")
        return first
    latest, tried = first, list[str]()
    for turn in range(rounds + 1):
        [verdict] = await ctx.verify(question, [latest], by=name, **values)
        if verdict.ok is not False:
            return await _settled(ctx, question, first, latest, verdict.ok)
        tried.append(shown(latest))
        if turn == rounds:
            break
        asked = prompt(ctx, "verify_revise/revise", candidate=shown(latest), evidence=verdict.evidence or "It failed.")
        asked = avoiding(ctx, asked, tried[:-1]) if avoid else asked
        [latest] = await ctx.generate(question.followed_by(asked), temperature=warmer(question, temperature_step, turn))
    ctx.note(stopped="rounds", failed=len(tried))
    return first


async def _settled(ctx: Context, question: Chat, first: Draft, latest: Draft, ok: bool | None) -> Draft:
    """The latest attempt if it passed and may win, else the first."""
    why = "passed" if ok else "the verifier could not tell"
    if ok and latest is not first:
        why = await disqualified(ctx, question, first, latest) or why
    ctx.note(stopped=why, revised=latest is not first)
    return latest if why == "passed" else first


def _format(question: Chat, draft: Draft) -> tuple[str | None, dict[str, Any]]:
    """The verifier of the asked format; none without one, and for tool calls, which the format does not bind."""
    wanted = question.format
    if wanted.kind == "text" or draft.tool_calls:
        return None, {}
    return wanted.kind, {"schema": wanted.schema} if wanted.kind == "json_schema" else {}
