"""Answer, have the errors listed by severity, and revise once if one is grave enough.

The estimate is made in a fresh context as JSON with the lists critical, major and minor. If no error is at least as
severe as the knob says, the answer is served as it is; otherwise it is revised with the whole list, and the revision
replaces it only if the trust gate strictly prefers it. An estimate that cannot be read is no evidence: the answer
stays. A revision never wins if it is unfinished, lacks the asked JSON shape, or drops the tool calls of the answer.

Paper: Feng et al. 2024, TEaR (arXiv 2402.16379); the gate after Shridhar et al. 2023, ART (arXiv 2311.07961).
Cost: 2 generations; 3 with a grave error, and then one scoring of two drafts unless the gate is none or the revision is
    ruled out before.
Departures: for any task, not only translation; no few-shot examples; minor errors alone do not trigger a revision
    unless severity says so; an unreadable estimate ends the run with the answer instead of an error; gated.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Sampling, prompt
from strop.strategies.kit.gate import Gate, needs_messages, objection
from strop.strategies.kit.parse import verdict_json
from strop.strategies.kit.rank import shown

ESTIMATOR = Sampling(temperature=0.0, max_tokens=1024)
SEVERITIES = ("critical", "major", "minor")
NOTHING = {"", "none", "null", "n/a", "no error", "no errors", "no-error", "no-errors"}


async def tear(
    ctx: Context,
    question: Chat,
    severity: Annotated[
        Literal["critical", "major", "minor"], Field(description="the least grave error that is worth a revision")
    ] = "major",
    gate: Gate = "pairwise",
) -> Draft:
    needs_messages(question, "tear")
    [draft] = await ctx.generate(question)
    ctx.keep(draft)
    texts = {"question": question.transcript(), "candidate": shown(draft)}
    [reply] = await ctx.generate(prompt(ctx, "tear/estimate", **texts, sampling=ESTIMATOR))
    errors = estimate(reply.text)
    if errors is None:
        ctx.note(stopped="the estimate could not be read")
        return draft
    ctx.note(errors={name: len(listed) for name, listed in errors.items()})
    if not any(errors[name] for name in SEVERITIES[: SEVERITIES.index(severity) + 1]):
        ctx.note(stopped="no error is grave enough")
        return draft
    listed = "\n".join(f"- {name}: {error}" for name in SEVERITIES for error in errors[name])
    asked = prompt(ctx, "tear/refine", candidate=shown(draft), errors=listed)
    [new] = await ctx.generate(question.followed_by(asked))
    why = await objection(ctx, question, draft, new, gate)
    ctx.note(stopped=why or "revised")
    return draft if why else new


def estimate(text: str) -> dict[str, list[str]] | None:
    """The errors by severity; None when the text holds no estimate. Empty, null and "no-error" are no errors."""
    found = verdict_json(text)
    if found is None or not any(name in found for name in SEVERITIES):
        return None
    return {name: _listed(found.get(name)) for name in SEVERITIES}


def _listed(value: Any) -> list[str]:
    rows = value if isinstance(value, list) else [value]
    texts = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows if row]
    return [text.strip() for text in texts if text.strip(" .").casefold() not in NOTHING]
