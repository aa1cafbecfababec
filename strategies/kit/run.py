"""Run a strategy: the only place that knows about the end of a budget, deadlines, clients that left, and errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex
from time import perf_counter
from typing import Any, NamedTuple

import anyio

from strop.strategies.kit.budget import Budget, Price, Purse, no_price
from strop.strategies.kit.context import Context, Perform
from strop.strategies.kit.errors import BadRequest, BudgetSpent, DeadlinePassed
from strop.strategies.kit.events import Bill, Finished, Observer, Outcome, Started, Stopped
from strop.strategies.kit.strategy import Strategy
from strop.strategies.kit.types import Chat, Draft, Usage


@dataclass(frozen=True)
class Request:
    """Everything that decides what a run does: replaying it with the same op results gives the same outcome."""

    strategy: Strategy
    question: Chat
    knobs: dict[str, Any] = field(default_factory=dict)
    budget: Budget = Budget()
    seed: int | None = None
    choices: int = 1
    live: bool = True
    fence: str = field(default_factory=lambda: token_hex(8))


class Served(NamedTuple):
    """Drafts to serve, and why they are less than the strategy meant to give."""

    answers: tuple[Draft, ...]
    degraded: str | None


async def run(
    request: Request, perform: Perform, *, observe: Sequence[Observer] = (), price: Price = no_price
) -> Outcome:
    """Run the request's strategy over `perform` and say how it ended; the outcome has at least one answer.

    Every strategy is an anytime algorithm: when the budget, the deadline or the engine ends it, the kept draft is
    served, else the best finished draft, else the longest unfinished one. Only a run that produced no token at all
    raises what ended it (`BudgetSpent`, `DeadlinePassed`, the engine's error), and so does a `BadRequest`.
    When the caller is cancelled (client gone), observers still get the bill, then the cancellation goes on.
    """
    knobs = request.strategy.check(request.knobs)
    ctx = Context(
        perform,
        root=request.strategy.name,
        purse=Purse.of(request.budget, price),
        seed=request.seed,
        choices=request.choices,
        fence=request.fence,
        live=request.live,
        observe=observe,
    )
    began = perf_counter()
    for observer in observe:
        observer(
            Started(
                request.strategy.name, knobs, request.question, request.budget, request.seed, request.fence, ctx.choices
            )
        )
    outcome = Outcome((), "gone")
    try:
        outcome = await _bounded(ctx, request, knobs)
    except Exception as failure:
        outcome = Outcome((), _stopped_by(failure), error=describe(failure))
        raise
    finally:
        outcome = replace(outcome, bill=_bill(ctx, outcome.answers, perf_counter() - began))
        for observer in observe:
            observer(Finished(outcome))
    return outcome


async def _bounded(ctx: Context, request: Request, knobs: dict[str, Any]) -> Outcome:
    ended: Exception = DeadlinePassed(request.budget.seconds or 0.0)
    with anyio.move_on_after(request.budget.seconds):
        try:
            answers = await _answers(ctx, request, knobs)
            return Outcome(answers, "budget" if ctx.clipped or any(a.clipped for a in answers) else "done")
        except BadRequest:
            raise
        except Exception as failure:  # noqa: BLE001  # boundary: raised again below unless there is something to serve
            ended = failure
    served = _fall_back(ctx)
    if not served.answers:
        raise ended
    stopped = _stopped_by(ended)
    return Outcome(served.answers, stopped, served.degraded, describe(ended) if stopped == "error" else None)


def _stopped_by(ended: Exception) -> Stopped:
    match ended:
        case BudgetSpent():
            return "budget"
        case DeadlinePassed():
            return "deadline"
        case _:
            return "error"


def describe(failure: BaseException) -> str:
    """A failure in one line for traces."""
    return f"{type(failure).__name__}: {failure}"


async def _answers(ctx: Context, request: Request, knobs: dict[str, Any]) -> tuple[Draft, ...]:
    """Best first. Strategies that rank their drafts fill the choices from one run; others are run once per choice."""
    body, question = request.strategy.body, request.question
    if request.strategy.ranked or request.choices == 1:
        answer = await body(ctx, question, **knobs)
        answers = answer if isinstance(answer, list) else [answer]
    else:
        nested = await ctx.map(lambda _: body(ctx, question, **knobs), range(request.choices), name="choice")
        answers = [draft for draft in nested if isinstance(draft, Draft)]
    served = tuple(answers[: request.choices])
    if not served:
        raise AssertionError(f"the strategy '{request.strategy.name}' returned no draft")
    for index, words in ctx.committed.items():
        if index < len(served) and not served[index].text.startswith(words):
            raise AssertionError(f"the answer of '{request.strategy.name}' does not start with what it committed")
    return served


def _fall_back(ctx: Context) -> Served:
    """The best there is when the strategy did not finish."""
    words = ctx.committed.get(0, "")
    if ctx.best is not None and ctx.best.draft.text.startswith(words):
        return Served((ctx.best.draft,), "kept")
    for drafts, why in ((ctx.drafted, "unselected"), (ctx.partials, "partial")):
        usable = [d for d in drafts if d.text.startswith(words) and (d.text or d.tool_calls)]
        if usable:
            longest = max(usable, key=lambda d: (d.finish != "length", d.n_tokens))
            return Served((longest,), why)
    return Served((Draft(words, "length"),), "partial") if words else Served((), None)


def _bill(ctx: Context, answers: tuple[Draft, ...], seconds: float) -> Bill:
    total = sum(ctx.phases.values(), Usage())
    served = sum(answer.n_tokens - answer.n_injected for answer in answers)
    usd = None if ctx.unpriced else ctx.root.purse.spent_usd
    return Bill(total, dict(ctx.phases), max(0, total.completion - served), seconds, usd)
