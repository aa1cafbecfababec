"""The embedded engine: one thread that owns the model, and the door to it."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import anyio.to_thread

from strop.server.engine.chat.types import (
    EngineDead,
    LabelScores,
    Scores,
    TokenEvent,
    TokenRequest,
    TokenResult,
    Usage,
)
from strop.server.engine.transformers import scoring
from strop.server.engine.transformers.batcher import Batcher, Limits
from strop.server.engine.transformers.draft import DraftState
from strop.server.engine.transformers.grammar import Grammars
from strop.server.engine.transformers.handle import Handle, finished
from strop.server.engine.transformers.job import Chore, Job, Task
from strop.server.engine.transformers.load import Loaded
from strop.server.engine.transformers.runner import Runner
from strop.server.engine.transformers.sampling import RowSampling

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Generation:
    """All drafts of a request and what they cost."""

    results: tuple[TokenResult, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is. `forward_tokens` counts every token computed since the start."""

    running: int
    waiting: int
    forward_tokens: int
    prefix_tokens: int


class Engine:
    """Runs `TokenRequest`s on a loaded model. `async with Engine(load()) as engine: await engine.generate(request)`.

    Started once, stopped once. If its thread dies, every open request fails with EngineDead and `healthy` turns False.
    """

    def __init__(self, loaded: Loaded, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.loaded, self.limits = loaded, limits
        self._batcher = Batcher(Runner(loaded.model), limits)
        self.vocab_size = self._batcher.runner.vocab_size
        self.context_length = min(loaded.context_length, limits.kv_tokens)
        self._grammars = Grammars(loaded.tokenizer, self.vocab_size, loaded.eos_ids)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # orders submissions against the end of the thread
        self._reason = "the engine was not started"
        self._alive = False
        self._thread = threading.Thread(target=self._run, name="strop-embedded-engine", daemon=True)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.stop()

    @property
    def healthy(self) -> bool:
        """Whether requests are being served."""
        return self._alive

    @property
    def why_not(self) -> str:
        """The reason when it is not healthy."""
        return "" if self._alive else self._reason

    def start(self) -> None:
        """Start the thread. RuntimeError on a second start."""
        if self._thread.ident is not None:
            raise RuntimeError("an engine can be started only once")
        self._alive = True
        self._thread.start()

    async def stop(self) -> None:
        """End every request with EngineDead and wait for the thread."""
        await anyio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """`stop` for callers without an event loop. Harmless when stopped already."""
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def load(self) -> Load:
        """How busy the engine is right now."""
        batcher = self._batcher
        waiting = len(batcher.waiting) + len(batcher.ready)
        return Load(len(batcher.rows), waiting, batcher.runner.forward_tokens, batcher.prefixes.tokens)

    def submit(self, request: TokenRequest, stream: bool = False) -> Handle:
        """Queue a request. ValueError if it is wrong, EngineDead if nobody would serve it.

        A grammar is compiled here, which takes up to a second: on an event loop, use `open`.
        """
        job = Job(request, self._drafts(request), stream)
        self._send(lambda: self._batcher.waiting.append(job))
        return Handle(job)

    async def open(self, request: TokenRequest, stream: bool = False) -> Handle:
        """`submit` without blocking the event loop."""
        if request.grammar is None:
            return self.submit(request, stream)
        return await anyio.to_thread.run_sync(self.submit, request, stream)

    async def generate(self, request: TokenRequest) -> Generation:
        """All drafts. If the caller is cancelled, so is the request."""
        handle = await self.open(request)
        results = await handle.results()
        return Generation(tuple(results), handle.usage())

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        """Events as they come; closing the iterator cancels the request."""
        handle = await self.open(request, stream=True)
        async with aclosing(handle.events()) as events:
            async for event in events:
                yield event

    async def score(self, prompt_ids: Sequence[int], continuations: Sequence[Sequence[int]], *, top: int = 0) -> Scores:
        """Logprob and entropy (nats) of every token of every continuation of the prompt, which must not be empty.

        Also the `top` likeliest tokens in every place. In the usage every token counts as a prompt token.
        """
        self._check_ids(prompt_ids, *continuations, room=max(map(len, continuations), default=0))
        task = Task(len(prompt_ids) + sum(map(len, continuations)))
        values = await self._chore(task, scoring.score(self._batcher, task, prompt_ids, continuations, top))
        return Scores(values, task.usage())

    async def label_logprobs(self, prompt_ids: Sequence[int], label_ids: Sequence[int]) -> LabelScores:
        """Logprobs of single tokens as the next token after the prompt."""
        self._check_ids(prompt_ids, label_ids, room=0)
        task = Task(len(prompt_ids))
        scores: LabelScores = await self._chore(task, scoring.labels(self._batcher, task, prompt_ids, label_ids))
        return replace(scores, usage=task.usage())

    async def _chore(self, task: Task, portions: Any) -> Any:
        chore: Chore[Any] = Chore(task, portions)
        self._send(lambda: self._batcher.chores.append(chore))
        await finished(task)
        return chore.value

    def _drafts(self, request: TokenRequest) -> list[DraftState]:
        biased = [token for token, _ in request.logit_bias]
        self._check_ids(request.prompt_ids, biased, request.stop_token_ids, room=1)
        room = self.context_length - len(request.prompt_ids)
        limit = room if request.max_tokens is None else min(request.max_tokens, room)
        matcher = self._grammars.compile(request.grammar) if request.grammar else None
        seed = secrets.randbits(63) if request.seed is None else request.seed
        return [
            DraftState(
                index,
                request,
                RowSampling.of(request, seed, index, self.loaded.eos_ids),
                self.loaded.tokenizer,
                self.loaded.eos_ids,
                limit,
                matcher.fork() if matcher else None,
            )
            for index in range(request.n)
        ]

    def _check_ids(self, prompt_ids: Sequence[int], *others: Sequence[int], room: int) -> None:
        if not prompt_ids:
            raise ValueError("prompt_ids is empty")
        if len(prompt_ids) + room > self.context_length:
            raise ValueError(
                f"the prompt has {len(prompt_ids)} tokens and needs {room} more, "
                f"but the context holds {self.context_length}"
            )
        strange = [i for ids in (prompt_ids, *others) for i in ids if not 0 <= i < self.vocab_size]
        if strange:
            raise ValueError(f"token id {strange[0]} is not in the vocabulary of {self.vocab_size}")

    def _send(self, command: Callable[[], None]) -> None:
        with self._gate:
            if not self._alive:
                raise EngineDead(self._reason)
            self._inbox.put(command)

    def _run(self) -> None:
        reason = "the engine was stopped"
        try:
            while self._take_commands():
                self._batcher.step()
        except Exception as crash:  # boundary: the thread ends, and says so to every open request
            log.exception("the embedded engine crashed")
            reason = f"the engine crashed: {type(crash).__name__}: {crash}"
        with self._gate:
            self._alive, self._reason = False, reason
        while not self._inbox.empty():
            command = self._inbox.get()
            if command is not None:
                command()
        self._batcher.abandon(EngineDead(reason))

    def _take_commands(self) -> bool:
        """Run what was sent; wait for it when there is nothing else to do. False when told to stop."""
        while self._batcher.idle or not self._inbox.empty():
            command = self._inbox.get()
            if command is None:
                return False
            command()
        return True
