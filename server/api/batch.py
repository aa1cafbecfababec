"""Several prompts of one request: a run each, side by side, with one bill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

import anyio

from strop.server.api.ledger import Ledger, Usage
from strop.server.api.wire.strop import StropAnswer
from strop.server.service import Ask, Service
from strop.strategies.kit import types
from strop.strategies.kit.events import Bill, Committed, Event, Observer, Outcome, Stopped
from strop.strategies.kit.fan import fan_out

WORST: tuple[Stopped, ...] = ("done", "budget", "deadline", "error", "gone")
"""How runs end, from the best to the worst."""


class Batch:
    """The account of one request with one or more prompts; `ask` is the first prompt's under the request's own id.

    Choices are numbered through: prompt i has the choices i * n to i * n + n - 1. The seconds of the budget are those
    of the whole request; its tokens, calls and money are per prompt, as if each had been a request of its own.
    """

    def __init__(self, asks: Sequence[Ask], listeners: Sequence[Observer]) -> None:
        self.ledgers = [Ledger(ask) for ask in asks]
        self.each = asks[0].choices
        self.ask = replace(asks[0], choices=self.each * len(asks))
        self.outcomes: list[Outcome] = []
        self._listeners = listeners

    @property
    def spent(self) -> bool:
        """Whether an engine generated anything."""
        return any(ledger.spent for ledger in self.ledgers)

    async def answer(self, service: Service, observe: Sequence[Observer] = ()) -> Outcome:
        """Run every prompt, no more at once than the server answers requests; the first failure is that of all."""
        began = monotonic()
        seconds = service.bounded(self.ask.selection.budget, self.ask.principal).seconds
        room = anyio.CapacityLimiter(service.settings.max_concurrent_requests)

        async def one(i: int) -> Outcome:
            async with room:
                ledger = self.ledgers[i]
                ask = ledger.ask
                if i >= room.total_tokens and seconds is not None:
                    left = max(0.001, seconds - (monotonic() - began))
                    budget = replace(ask.selection.budget, seconds=left)
                    ask = replace(ask, selection=replace(ask.selection, budget=budget))
                shifted = [_shifted(each, i * self.each) for each in observe]
                return await service.answer(ask, [ledger, self._listeners[i], *shifted])

        self.outcomes = await fan_out(one, len(self.ledgers))
        return merged(self.outcomes)

    def usage(self, outcome: Outcome) -> Usage:  # noqa: ARG002  # an account's shape; the parts are known here
        """The usage blocks of all prompts added up."""
        return added([ledger.usage(each) for ledger, each in zip(self.ledgers, self.outcomes, strict=True)])

    def usage_so_far(self, live: int) -> Usage:
        """A running usage block; `live` tokens of unfinished ops were already streamed."""
        so_far = added([ledger.usage_so_far(0) for ledger in self.ledgers])
        generated = max(so_far["completion_tokens"], live)
        return {**so_far, "completion_tokens": generated, "total_tokens": so_far["prompt_tokens"] + generated}

    def strop(self, outcome: Outcome) -> StropAnswer:
        """The `strop` object, with the bill of all prompts; traces follow one another."""
        about = self.ledgers[0].strop(outcome)
        about["trace_id"] = self.ask.id
        if "trace" in about:
            about["trace"] = [line for ledger in self.ledgers for line in ledger.strop(outcome)["trace"]]
        return about


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome for the whole request: all answers, the worst end, the sum of the bills."""
    if len(outcomes) == 1:
        return outcomes[0]
    bills = [outcome.bill for outcome in outcomes]
    phases: dict[str, types.Usage] = {}
    for tag, usage in (item for bill in bills for item in bill.phases.items()):
        phases[tag] = phases.get(tag, types.Usage()) + usage
    prices = [bill.usd for bill in bills]
    known = [usd for usd in prices if usd is not None]
    return Outcome(
        tuple(answer for outcome in outcomes for answer in outcome.answers),
        max((outcome.stopped for outcome in outcomes), key=WORST.index),
        next((outcome.degraded for outcome in outcomes if outcome.degraded), None),
        next((outcome.error for outcome in outcomes if outcome.error), None),
        Bill(
            sum((bill.total for bill in bills), types.Usage()),
            phases,
            sum(bill.discarded for bill in bills),
            max(bill.seconds for bill in bills),
            sum(known) if len(known) == len(prices) else None,
        ),
    )


def added(blocks: Sequence[Usage]) -> Usage:
    """The sum of usage blocks."""

    def total(read: Callable[[Usage], int]) -> int:
        return sum(map(read, blocks))

    usage: Usage = {
        "prompt_tokens": total(lambda block: block["prompt_tokens"]),
        "completion_tokens": total(lambda block: block["completion_tokens"]),
        "total_tokens": total(lambda block: block["total_tokens"]),
    }
    if all("prompt_tokens_details" in block for block in blocks):
        usage["prompt_tokens_details"] = {
            "cached_tokens": total(lambda block: block["prompt_tokens_details"]["cached_tokens"])
        }
        usage["completion_tokens_details"] = {
            "reasoning_tokens": total(lambda block: block["completion_tokens_details"]["reasoning_tokens"])
        }
    return usage


def _shifted(observe: Observer, first: int) -> Observer:
    """An observer to whom the choices of a later prompt have their numbers in the whole request."""

    def shifted(event: Event) -> None:
        if first and isinstance(event, Committed):
            event = replace(event, delta=replace(event.delta, index=event.delta.index + first))
        observe(event)

    return shifted
