"""The simulated engine: no model, no weights, and everything else an engine has. See `docs/engines.md`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from time import perf_counter

import anyio
from anyio.lowlevel import checkpoint

from strop.server.engine.base import Counters, Health, ModelInfo
from strop.server.engine.simulated import faults as fault
from strop.server.engine.simulated import numbers
from strop.server.engine.simulated.planning import Planned, beginning, planned, prompt_tokens, room
from strop.server.engine.simulated.revealing import Revealing
from strop.server.engine.simulated.tokenizer import count, text_of, tokens_of
from strop.server.engine.simulated.voice import Said, digest, readable, truth
from strop.strategies.kit.capabilities import Capabilities, Capability
from strop.strategies.kit.errors import BadRequest, EngineError, EngineOverloaded, EngineUnavailable
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Op, Result, Weighed
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Draft, Logprob, Sampling, Tokens, Usage
from strop.strategies.testing import Brain
from strop.strategies.testing.brain import task_of

_LACKS = {
    Capability.HIDDEN_STATES: "the simulated model has no layers",
    Capability.LOGIT_EDITS: "the simulated model has no logits",
    Capability.PRM: "the simulated model is no reward model",
    Capability.ADAPTERS: "the simulated model has no weights to adapt",
    Capability.PRIORITIES: "simulated drafts are served in order of arrival",
}


class SimulatedEngine:
    """A deterministic engine for demos, tests and load tests.

    `skill` is the probability that a draft is right, `taste` that a judge is. `latency` is in seconds before the first
    token, `tokens_per_second` the speed of one draft (0: instant), `slots` how many drafts are decoded at once (None:
    all). `faults` is the grammar of `faults.parsed`; after a `die` the engine is down for `revive_after` seconds.
    `context` is in tokens, `length` the mean number of words of an answer.

    A draft depends on the question, the sampling seed and its index; at temperature 0 on the conversation alone;
    without a seed on the op's key and on how many unseeded ops came before.
    """

    def __init__(
        self,
        skill: float = 0.7,
        taste: float = 0.8,
        latency: float = 0.0,
        tokens_per_second: float = 0.0,
        faults: str = "",
        name: str = "simulated",
        *,
        slots: int | None = None,
        context: int = 32_768,
        length: int = 40,
        seed: int = 0,
        revive_after: float = 5.0,
    ) -> None:
        self.brain = Brain(skill, taste, length=length, seed=seed, truth=truth)
        self._latency = latency
        self._speed = tokens_per_second
        self._faults = fault.parsed(faults)
        self._name = name
        self._context = context
        self._slots = None if slots is None else anyio.CapacityLimiter(slots)
        self._revive_after = revive_after
        self._down_until = 0.0
        self._entered = False
        self._unseeded = 0
        self._total = Usage()
        self._running = 0

    @property
    def model(self) -> ModelInfo:
        """A model of the given name."""
        return ModelInfo(self._name, self._context)

    @property
    def capabilities(self) -> Capabilities:
        """Everything that needs no model."""
        return Capabilities(frozenset(Capability) - frozenset(_LACKS), _LACKS)

    def health(self) -> Health:
        """Not ready before `running`, after it, and for a while after a `die` fault."""
        if not self._entered:
            return Health(False, "not started")
        left = self._down_until - perf_counter()
        return Health(False, f"a simulated failure; back in {left:.1f} seconds") if left > 0 else Health(True)

    def counters(self) -> Counters:
        """Totals since the start."""
        used, waiting = self._total, self._slots.statistics().tasks_waiting if self._slots else 0
        return Counters(used.prompt, used.cached, used.completion, used.calls, max(0, self._running - waiting), waiting)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Nothing to load."""
        self._entered = True
        try:
            yield
        finally:
            self._entered = False

    async def perform(self, op: Op, span: Span) -> Result:
        """Do one `Generate` or `Logprobs` op."""
        if self._down_until > perf_counter():
            raise EngineUnavailable(self.health().detail)
        match op:
            case Generate():
                return await self._generate(op, span)
            case Logprobs():
                return await self._weigh(op, span)
            case _:
                raise BadRequest(f"an engine does not perform {type(op).__name__}", code="unsupported_op")

    # ---- generating --------------------------------------------------------------------------------------------

    async def _generate(self, op: Generate, span: Span) -> Generated:
        key = self._key(op, span)
        kind = fault.drawn(self._faults, f"{span.key}:{key}")
        if kind == "overload":
            raise EngineOverloaded("a simulated overload", retry_after=1.0)
        prompt = prompt_tokens(op.chat)
        start = beginning(op.prefix)
        inserted = count(op.prefix.inject) if op.prefix else 0
        drafts = self._planned(op, key, start, prompt, garbage=kind == "garbage")
        read = prompt + start.n_tokens
        began = perf_counter()
        revealing = Revealing(drafts, span, self._post, self._slots)
        span.receipt.partials = revealing.partials
        self._running += op.n
        self._post(span, Usage(prompt=read, injected=inserted, calls=op.n))
        try:
            await checkpoint()
            await revealing.perform(self._latency, self._speed, kind)
        except EngineError:
            self._down_until = perf_counter() + (self._revive_after if kind == "die" else 0.0)
            raise
        finally:
            self._running -= op.n
            self._post(span, Usage(seconds=perf_counter() - began))
        return Generated(tuple(draft.at(len(draft.new)) for draft in drafts), span.receipt.usage, read)

    def _planned(self, op: Generate, key: str, start: Draft, prompt: int, *, garbage: bool) -> list[Planned]:
        left = room(op.chat, prompt + start.n_tokens, self._context)
        op = replace(op, chat=readable(op.chat))
        if garbage:
            words = (fault.nonsense(f"{key}:{i}", self.brain.length) for i in range(op.n))
            return [planned(self.brain, op, start, key, left, said=Said(text)) for text in words]
        if greedy(op.chat.sampling):
            return [planned(self.brain, op, start, f"greedy:{digest(op.chat)}", left)] * op.n
        return [planned(self.brain, op, start, f"{key}:{i}", left) for i in range(op.n)]

    def _key(self, op: Generate, span: Span) -> str:
        if op.chat.sampling.seed is not None:
            return str(op.chat.sampling.seed)
        self._unseeded += 1
        return f"{span.key}:{self._unseeded}"

    def _post(self, span: Span, used: Usage) -> None:
        """To the receipt and to the totals."""
        span.receipt.own += used
        self._total += used

    # ---- weighing ----------------------------------------------------------------------------------------------

    async def _weigh(self, op: Logprobs, span: Span) -> Weighed:
        chat = readable(op.chat)
        prompt, chat_digest, question = prompt_tokens(chat), digest(chat), task_of(chat)[0]
        values: list[Logprob] = []
        for draft in op.drafts:
            tokens = draft.tokens if draft.tokens.ids and draft.tokens.texts else tokens_of(draft.text)
            if not draft.text:
                tokens = Tokens(tokens.ids, tuple(map(text_of, tokens.ids)))
            self._post(span, Usage(prompt=prompt + len(tokens), cached=prompt if values else 0))
            mind = numbers.mind(self.brain, chat_digest, question, draft.text)
            scored = numbers.columns(tokens, 0, mind, frozenset({"logprobs", "entropy"}), op.top)
            values.append(Logprob(scored.logprobs, scored.entropies, scored if op.top else Tokens()))
            await checkpoint()
        return Weighed(tuple(values), span.receipt.usage)


def greedy(sampling: Sampling) -> bool:
    """Whether every draft is the same."""
    return sampling.temperature == 0 or sampling.top_k == 1 or sampling.top_p == 0
