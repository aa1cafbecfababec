"""vLLM behind strop's engine protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter, time

import anyio.to_thread

from strop.server.engine.base import Counters, Health, ModelInfo
from strop.server.engine.chat.translate import Asked
from strop.server.engine.vllm import launch, metrics
from strop.server.engine.vllm.generation import Generation, Place
from strop.server.engine.vllm.instance import ALWAYS_MISSING, Instance, boot
from strop.server.engine.vllm.lifeline import Lifeline
from strop.server.engine.vllm.params import Report
from strop.server.engine.vllm.weighing import Weighing
from strop.strategies.kit.capabilities import Capabilities, Capability
from strop.strategies.kit.errors import EngineUnavailable, MissingCapability
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Op, Result, Weighed
from strop.strategies.kit.span import Delta, Live, Span
from strop.strategies.kit.types import Draft, Logprob, Tokens, Usage

MEASURED = {Capability.ENTROPY.value, Capability.CERTAINTY.value}


class VllmEngine:
    """One model served by vLLM in child processes of this one.

    `flags` are words of vLLM's own command line ("--tensor-parallel-size", "2") and win over the other parameters.
    `salt` names, per op, whose prefix cache it may share (None: everybody's). Needs vLLM 0.32; constructing it checks
    only that there is a vLLM.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        flags: tuple[str, ...] = (),
        salt: Callable[[Span], str | None] = lambda _: None,
    ) -> None:
        launch.require_installed()
        launch.check_flags(flags)
        wanted = launch.Launch(model, dtype, max_model_len, max_num_seqs, flags)
        self._series, self._totals = metrics.Series(), metrics.Totals()
        self._lifeline: Lifeline[Instance] = Lifeline(partial(boot, wanted, self._series, self._totals))
        self._model = ModelInfo(launch.public_name(model))
        self._salt = salt
        self._billed = self._counted = Usage()

    @property
    def model(self) -> ModelInfo:
        """The served model."""
        return self._model

    @property
    def capabilities(self) -> Capabilities:
        """What the running engine can do, and why not what it cannot."""
        latest = self._lifeline.latest
        return Capabilities(frozenset(), ALWAYS_MISSING) if latest is None else latest.capabilities

    @property
    def collector(self) -> metrics.Series:
        """vLLM's own metrics (`vllm:*`), to be registered with the server's registry."""
        return self._series

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Boot vLLM and keep it alive; its processes are gone on leaving."""
        async with self._lifeline.running() as first:
            self._model = ModelInfo(self._model.name, first.bounds.context, int(time()), "strop")
            yield

    def health(self) -> Health:
        """Not ready while a dead engine is being replaced."""
        return self._lifeline.health()

    def counters(self) -> Counters:
        """Prompts as they are billed, once per op; tokens and load as vLLM counts them."""
        billed, own = self._billed, self._totals
        return Counters(billed.prompt, billed.cached, own.completion, billed.calls, own.running, own.waiting)

    def unbilled(self) -> Usage:
        """What vLLM counted in its own way (a prompt per draft) beyond what finished ops knew of: zero when idle."""
        own, ours = self._totals, self._counted
        return Usage(own.prompt - ours.prompt, own.cached - ours.cached, own.completion - ours.completion)

    async def perform(self, op: Op, span: Span) -> Result:
        """Do a `Generate` or a `Logprobs` op."""
        instance = self._lifeline.engine
        try:
            match op:
                case Generate():
                    return await self._generate(instance, op, span)
                case Logprobs():
                    return await self._weigh(instance, op, span)
                case _:
                    raise MissingCapability(op.kind, "an engine generates and weighs; it does not score")
        except Exception as failure:
            if instance.dead:
                self._lifeline.suspect()
                raise EngineUnavailable("the engine died; it is being started again") from failure
            raise

    async def _generate(self, instance: Instance, op: Generate, span: Span) -> Generated:
        translator = instance.translator
        asked = await anyio.to_thread.run_sync(translator.request, op)
        live = None if asked.tools or instance.thinks else span.live  # calls and reasoning are taken out of the text
        report = Report(live=live is not None, logprobs=True, stats=bool(MEASURED & set(op.want)))
        generation = Generation(instance, asked, report, self._place(span))
        span.receipt.partials = lambda: translator.drafts(asked, generation.results(), span.key)
        try:
            await generation.run(live)
        finally:
            span.receipt.own = generation.usage
            self._count(generation.usage, generation.counted)
        results = await anyio.to_thread.run_sync(generation.results)
        drafts = tuple(translator.drafts(asked, results, span.key))
        if live is None and span.live is not None:
            self._tell_at_once(span.live, asked, drafts)
        return Generated(drafts, span.receipt.own, len(asked.request.prompt_ids))

    async def _weigh(self, instance: Instance, op: Logprobs, span: Span) -> Weighed:
        began = perf_counter()
        prompt, drafts = await anyio.to_thread.run_sync(instance.translator.continuations, op)
        weighing = Weighing(instance, prompt, drafts, op.top, self._place(span))
        try:
            scores = await weighing.run()
        finally:
            span.receipt.own = weighing.usage + Usage(seconds=perf_counter() - began)
            self._count(weighing.usage, weighing.counted)
        told = instance.translator.weighed
        values = (
            Logprob(score.logprobs, (), told(ids, score) if op.top else Tokens())
            for score, ids in zip(scores, drafts, strict=True)
        )
        return Weighed(tuple(values), span.receipt.own)

    def _count(self, billed: Usage, counted: Usage) -> None:
        self._billed += billed
        self._counted += counted

    def _place(self, span: Span) -> Place:
        return Place(span.key, priority=0 if span.live is not None else 1, salt=self._salt(span))

    @staticmethod
    def _tell_at_once(live: Live, asked: Asked, drafts: tuple[Draft, ...]) -> None:
        """What could not be told while it was made; a prefix is not told again."""
        for index, draft in enumerate(drafts):
            text = draft.text.removeprefix(asked.before.text)
            if text or draft.reasoning:
                live(Delta(text, index, draft.reasoning))
