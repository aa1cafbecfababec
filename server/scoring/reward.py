"""The reward model's engine, beside the policy's: process rewards (`prm`) or outcome scores (`orm`) of drafts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter, time
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from strop.server.engine.base import Counters, Health, ModelInfo
from strop.server.scoring.batched import Batched
from strop.server.scoring.judge import shown
from strop.server.scoring.prm.formats import Laid
from strop.strategies.kit.capabilities import Capabilities, Capability
from strop.strategies.kit.errors import (
    ContextTooLong,
    EngineUnavailable,
    MissingCapability,
    ScorerError,
    StropError,
)
from strop.strategies.kit.ops import Op, Result, Score, Scored, Stepped, Steps
from strop.strategies.kit.span import Span
from strop.strategies.kit.steps import aggregate, split
from strop.strategies.kit.types import Chat, Draft, Usage

if TYPE_CHECKING:
    from strop.server.scoring.prm.network import Network


@dataclass(slots=True, eq=False)
class _Row:
    """One row on its way through the model. `begun`: it costs; `gone`: nobody waits for it any more."""

    laid: Laid
    begun: bool = False
    gone: bool = False
    seconds: float = 0.0
    scores: tuple[float, ...] = ()
    error: StropError | None = None


class RewardModel:
    """A reward model in this process, with a thread of its own; rows of all requests are computed together.

    `model` is a hub id or a folder, `format` a name of `prm.formats.FORMATS` or "auto". `most_tokens` bounds one pass,
    padding included. Usage counts every token of every row as a prompt token, when its pass begins.
    """

    def __init__(
        self,
        model: str,
        *,
        format: str = "auto",  # noqa: A002
        dtype: str = "auto",
        device: str = "auto",
        most_tokens: int = 8192,
    ) -> None:
        given = (None if dtype == "auto" else dtype, None if device == "auto" else device)
        self._load = partial(_load, model, format, *given)
        self._most_tokens = most_tokens
        self._model = ModelInfo(model)
        self._network: Network | None = None
        self._batched: Batched[_Row, _Row] = Batched(self._compute)
        self._thread = anyio.CapacityLimiter(1)
        self._done = Counters()
        self._open = 0

    @property
    def model(self) -> ModelInfo:
        """The reward model."""
        return self._model

    @property
    def capabilities(self) -> Capabilities:
        """Process rewards, if the format has them."""
        if self._network is None:
            return Capabilities(frozenset(), {Capability.PRM: "the reward model is not loaded"})
        if self._network.format.process:
            return Capabilities(frozenset({Capability.PRM}))
        return Capabilities(frozenset(), {Capability.PRM: "the loaded reward model scores whole answers: use by 'orm'"})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the model in a worker thread; free it on leaving."""
        self._network = await anyio.to_thread.run_sync(self._load, limiter=self._thread)
        self._model = ModelInfo(self._network.name, self._network.context, int(time()))
        try:
            async with self._batched.running():
                yield
        finally:
            self._network = None

    def health(self) -> Health:
        """Whether the model is loaded."""
        return Health(True) if self._network else Health(False, "the reward model is not loaded")

    def counters(self) -> Counters:
        """Totals of finished and cancelled ops, and how many are open."""
        return replace(self._done, running=self._open)

    async def perform(self, op: Op, span: Span) -> Result:
        """Do a `Steps` op, or a `Score` op by "prm" (the reward of the last step) or by "orm"."""
        match op:
            case Steps(by="prm"):
                steps, [rewards] = await self._rewards(op.chat, [op.draft], span)
                return Stepped(rewards, tuple(steps[0]), span.receipt.own)
            case Score(by="prm"):
                _, rewarded = await self._rewards(op.chat, op.drafts, span)
                return Scored(tuple(aggregate(rewards, "last") for rewards in rewarded), (), span.receipt.own)
            case Score(by="orm"):
                return Scored(await self._outcomes(op, span), (), span.receipt.own)
            case _:
                raise MissingCapability(op.kind, "a reward model only scores, by 'prm' or 'orm'")

    async def _rewards(
        self, chat: Chat, drafts: Sequence[Draft], span: Span
    ) -> tuple[list[list[str]], list[tuple[float, ...]]]:
        """The steps of each draft, and a reward for each of them."""
        self.capabilities.require({Capability.PRM: "strop.by"})
        steps = [split(draft.text) for draft in drafts]
        return steps, await self._score(chat, steps, span)

    async def _outcomes(self, op: Score, span: Span) -> tuple[float | None, ...]:
        if Capability.PRM in self.capabilities.offers:
            raise MissingCapability("orm", "the loaded reward model scores steps: use by 'prm'", param="strop.by")
        scores = await self._score(op.chat, [[shown(draft)] for draft in op.drafts], span)
        return tuple(values[0] for values in scores)

    async def _score(self, chat: Chat, answers: Sequence[Sequence[str]], span: Span) -> list[tuple[float, ...]]:
        """The scores of each answer, given as its steps."""
        if self._network is None:
            raise EngineUnavailable("the reward model is not loaded")
        laid = await anyio.to_thread.run_sync(_lay, self._network, chat, answers)
        rows = [[_Row(each) for each in one] for one in laid]
        every = [row for one in rows for row in one]
        self._open += 1
        try:
            await self._batched(every)
        finally:
            self._open -= 1
            self._settle(every, span)
        for row in every:
            if row.error is not None:
                raise row.error
        return [tuple(score for row in one for score in row.scores) for one in rows]

    async def _compute(self, rows: Sequence[_Row]) -> Sequence[_Row]:
        """Fill in the scores of all rows, a bounded number of tokens at a time, without those nobody waits for."""
        network = self._network
        if network is None:
            raise EngineUnavailable("the reward model is not loaded")
        from strop.server.scoring.prm.network import groups

        for group in groups([row.laid for row in rows], self._most_tokens):
            live = [rows[i] for i in group if not rows[i].gone]
            if live:
                await self._pass(network, live)
        return rows

    async def _pass(self, network: Network, rows: Sequence[_Row]) -> None:
        began = perf_counter()
        for row in rows:
            row.begun = True
        try:
            found = await anyio.to_thread.run_sync(network.read, [row.laid for row in rows], limiter=self._thread)
            for row, scores in zip(rows, found, strict=True):
                row.scores = tuple(scores)
        except Exception as failure:  # noqa: BLE001  # boundary: the callers of these rows raise it, the others go on
            error = failure if isinstance(failure, StropError) else ScorerError(f"the reward model failed: {failure}")
            for row in rows:
                row.error = error
        share = (perf_counter() - began) / sum(len(row.laid.ids) for row in rows)
        for row in rows:
            row.seconds = share * len(row.laid.ids)

    def _settle(self, rows: Sequence[_Row], span: Span) -> None:
        """Charge what was computed; drop what was not."""
        for row in rows:
            row.gone = True
        begun = [row for row in rows if row.begun]
        tokens = sum(len(row.laid.ids) for row in begun)
        span.receipt.own = Usage(prompt=tokens, seconds=sum(row.seconds for row in begun))
        self._done = replace(self._done, prompt=self._done.prompt + tokens)


def _load(model: str, kind: str, dtype: str | None, device: str | None) -> Network:
    from strop.server.scoring.prm.network import load

    return load(model, kind, dtype, device)


def _lay(network: Network, chat: Chat, answers: Sequence[Sequence[str]]) -> list[tuple[Laid, ...]]:
    """Rows of each answer; one without steps has none. Raises ContextTooLong, or ScorerError for a strange chat."""
    try:
        laid = [network.lay(chat, steps) if steps else () for steps in answers]
    except StropError:
        raise
    except Exception as failure:  # boundary: chat templates raise whatever their author chose
        raise ScorerError(f"the reward model's chat template cannot show this conversation: {failure}") from failure
    longest = max((len(row.ids) for rows in laid for row in rows), default=0)
    if longest > network.context:
        raise ContextTooLong(longest, network.context)
    return laid
