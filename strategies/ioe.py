"""If or else: one review that keeps the answer if the model is confident and updates it otherwise.

The second turn leaves the choice to the model's confidence instead of asserting a mistake, which is what makes models
revise right answers away. Only if the two answers differ does a third turn show both and ask for the best, and a trust
gate in a fresh context compares that with the first answer, which stays unless it strictly loses. A revision never wins
if it is unfinished, lacks the asked JSON shape, or drops the tool calls of the first answer.

Paper: Li et al. 2024, Confidence Matters (arXiv 2402.12563); the gate after Shridhar et al. 2023 (arXiv 2311.07961).
Cost: 2 generations, 3 when the answers differ or cannot be compared; then one scoring of two drafts unless the gate is
    none or the decision is the first answer or is ruled out.
Departures: the answer is shown as fenced data in the next user turn, not as an assistant turn, so answers by tool calls
    can be reviewed too; the client's temperature instead of 0; the decision is gated; of two equal answers the first is
    served.
"""

from __future__ import annotations

from strop.strategies.kit import Chat, Context, Draft, prompt
from strop.strategies.kit.gate import Gate, needs_messages, objection
from strop.strategies.kit.rank import shown


async def ioe(ctx: Context, question: Chat, gate: Gate = "pairwise") -> Draft:
    needs_messages(question, "ioe")
    [first] = await ctx.generate(question)
    ctx.keep(first)
    [second] = await ctx.generate(question.followed_by(prompt(ctx, "ioe/review", candidate=shown(first))))
    why = await objection(ctx, question, first, second, "none")
    if why:
        ctx.note(stopped=why)
        return first
    both = prompt(ctx, "ioe/decide", candidate=shown(first), other=shown(second))
    [final] = await ctx.generate(question.followed_by(both))
    why = await objection(ctx, question, first, final, gate)
    ctx.note(stopped=why or "decided")
    return first if why else final
