"""The embedded engine behind strop's engine protocol: chats to token requests, token results to drafts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from time import time

import anyio
import anyio.to_thread

from strop.server.engine.base import Counters, Health, ModelInfo
from strop.server.engine.chat import types as core
from strop.server.engine.chat.speaker import Defaults
from strop.server.engine.chat.translate import Translator
from strop.server.engine.transformers.batcher import Limits
from strop.server.engine.transformers.handle import Handle
from strop.server.engine.transformers.load import load
from strop.server.engine.transformers.loop import Engine
from strop.strategies.kit.capabilities import Capabilities, Capability
from strop.strategies.kit.errors import BadRequest, EngineError, EngineUnavailable, MissingCapability
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Op, Result, Weighed
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.types import Logprob, Tokens, Usage

MISSING = {
    Capability.HIDDEN_STATES: "the embedded engine does not return hidden states",
    Capability.LOGIT_EDITS: "the embedded engine does not edit logits while decoding",
    Capability.PRM: "no process reward model is loaded",
    Capability.ADAPTERS: "the embedded engine serves one set of weights",
    Capability.PRIORITIES: "the embedded engine serves requests in order of arrival",
}


class TransformersEngine:
    """One Hugging Face model in this process; see the package for how it decodes.

    `model` is a hub id, a folder or a GGUF file; None is the embedded SmolLM2-135M-Instruct. `max_rows` drafts decode
    together. Memory for keys and values is bounded by `kv_tokens` tokens.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        max_model_len: int | None = None,
        max_rows: int = 32,
        kv_tokens: int = 32_768,
    ) -> None:
        self._load = partial(load, model, None if dtype == "auto" else dtype, None if device == "auto" else device)
        self._max_model_len = max_model_len
        self._limits = Limits(rows=max_rows, kv_tokens=kv_tokens)
        self._engine: Engine | None = None
        self._translator: Translator | None = None
        self._model = ModelInfo(model or "embedded")
        self._done = Counters()

    @property
    def model(self) -> ModelInfo:
        """The served model."""
        return self._model

    @property
    def capabilities(self) -> Capabilities:
        """Everything but what is listed in `MISSING`."""
        return Capabilities(frozenset(Capability) - frozenset(MISSING), MISSING)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the model in a worker thread and start the engine's own; both are gone on leaving."""
        loaded = await anyio.to_thread.run_sync(self._load)
        if self._max_model_len is not None:
            loaded = replace(loaded, context_length=min(loaded.context_length, self._max_model_len))
        async with Engine(loaded, self._limits) as engine:
            usual = Defaults.of(getattr(loaded.model, "generation_config", None))
            self._translator = Translator(loaded, engine.context_length, usual)
            self._model = ModelInfo(loaded.name, engine.context_length, int(time()), "strop")
            self._engine = engine
            yield
        self._engine = None

    def health(self) -> Health:
        """Whether the engine's thread is alive."""
        if self._engine is None:
            return Health(False, "the model is not loaded")
        return Health(self._engine.healthy, self._engine.why_not)

    def counters(self) -> Counters:
        """Totals of finished and cancelled ops, and what is going on now."""
        if self._engine is None:
            return self._done
        now = self._engine.load()
        return replace(self._done, running=now.running, waiting=now.waiting)

    async def perform(self, op: Op, span: Span) -> Result:
        """Do a `Generate` or a `Logprobs` op."""
        if self._engine is None or self._translator is None:
            raise EngineUnavailable("the model is not loaded")
        match op:
            case Generate():
                return await self._generate(self._engine, self._translator, op, span)
            case Logprobs():
                return await self._weigh(self._engine, self._translator, op, span)
            case _:
                raise MissingCapability(op.kind, "an engine generates and weighs; it does not score")

    async def _generate(self, engine: Engine, translator: Translator, op: Generate, span: Span) -> Generated:
        asked = await anyio.to_thread.run_sync(translator.request, op)
        handle = await self._open(engine, asked.request, live=span.live is not None and not asked.tools)
        span.receipt.partials = lambda: translator.drafts(asked, handle.partials(), span.key)
        try:
            if span.live is not None and not asked.tools:
                await self._stream(handle, translator, span)
            results = await handle.results()
        except core.RequestFailed as failed:
            raise EngineError(f"this request failed while decoding: {failed}") from failed
        except core.EngineDead as dead:
            raise EngineUnavailable(str(dead)) from dead
        finally:
            await self._settle(handle)
            span.receipt.own = _usage(handle.usage(), op.n, asked.injected)
            self._count(span.receipt.own)
        drafts = tuple(translator.drafts(asked, results, span.key))
        return Generated(drafts, span.receipt.own, len(asked.request.prompt_ids))

    async def _open(self, engine: Engine, request: core.TokenRequest, *, live: bool) -> Handle:
        try:
            return await engine.open(request, stream=live)
        except ValueError as wrong:
            raise BadRequest(str(wrong)) from wrong
        except core.EngineDead as dead:
            raise EngineUnavailable(str(dead)) from dead

    @staticmethod
    async def _stream(handle: Handle, translator: Translator, span: Span) -> None:
        async with aclosing(handle.events()) as events:
            async for event in events:
                if span.live is not None and event.ids:
                    span.live(Delta(event.text, event.index, tokens=translator.columns(event)))

    @staticmethod
    async def _settle(handle: Handle) -> None:
        """Wait until the engine has let go of the request, so that what it cost is final; at most one step away."""
        if handle.done:
            return
        handle.cancel()
        with anyio.move_on_after(10, shield=True):
            try:
                await handle.results()
            except core.EngineError:
                return  # the error that counts is already on its way to the caller

    async def _weigh(self, engine: Engine, translator: Translator, op: Logprobs, span: Span) -> Weighed:
        prompt, continuations = await anyio.to_thread.run_sync(translator.continuations, op)
        try:
            if prompt:
                scores = await engine.score(prompt, continuations, top=op.top)
            else:
                scores = await _scored_alone(engine, continuations, op.top)
        except ValueError as wrong:
            raise BadRequest(str(wrong), param="messages", code="context_length_exceeded") from wrong
        except core.RequestFailed as failed:
            raise EngineError(f"this request failed while scoring: {failed}") from failed
        except core.EngineDead as dead:
            raise EngineUnavailable(str(dead)) from dead
        used = scores.usage
        span.receipt.own = Usage(used.prompt_tokens, used.cached_tokens, seconds=used.seconds)
        self._count(span.receipt.own)
        values = tuple(
            Logprob(score.logprobs, score.entropies, translator.weighed(ids, score) if op.top else Tokens())
            for score, ids in zip(scores.values, continuations, strict=True)
        )
        return Weighed(values, span.receipt.own)

    def _count(self, used: Usage) -> None:
        done = self._done
        self._done = replace(
            done,
            prompt=done.prompt + used.prompt,
            cached=done.cached + used.cached,
            completion=done.completion + used.completion,
            calls=done.calls + used.calls,
        )


async def _scored_alone(engine: Engine, texts: Sequence[tuple[int, ...]], top: int) -> core.Scores:
    """Texts with nothing before them: the first token of each is read, not scored."""
    values: list[core.SequenceScore] = []
    spent = core.Usage()
    for ids in texts:
        if not ids:
            values.append(core.SequenceScore((), ()))
            continue
        found = await engine.score(ids[:1], [ids[1:]], top=top)
        [rest], used = found.values, found.usage
        values.append(core.SequenceScore((0.0, *rest.logprobs), (0.0, *rest.entropies), ((), *rest.top)))
        spent = core.Usage(
            spent.prompt_tokens + used.prompt_tokens,
            spent.cached_tokens + used.cached_tokens,
            seconds=spent.seconds + used.seconds,
        )
    return core.Scores(tuple(values), spent)


def _usage(used: core.Usage, n: int, injected: int) -> Usage:
    """All drafts of a request share its prompt; one that never started has cost nothing."""
    started = used.prompt_tokens > 0
    return Usage(
        prompt=used.prompt_tokens,
        cached=used.cached_tokens,
        completion=used.completion_tokens,
        injected=injected if started else 0,
        calls=n if started else 0,
        seconds=used.seconds,
    )
