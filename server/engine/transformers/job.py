"""A request inside the engine: written by the engine's thread, read by its handle from any thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

from strop.server.engine.chat.types import (
    EngineError,
    Finish,
    RequestFailed,
    TokenEvent,
    TokenRequest,
    TokenResult,
    Usage,
)
from strop.server.engine.transformers.draft import DraftState
from strop.server.engine.transformers.sampling import Sampled

log = logging.getLogger(__name__)
T = TypeVar("T")


class Task:
    """What generating and scoring share: cost, end, error, and whom to wake."""

    def __init__(self, prompt_tokens: int) -> None:
        self.error: Exception | None = None
        self.done = threading.Event()
        self.prompt_tokens, self.cached_tokens = prompt_tokens, 0
        self._created = time.monotonic()
        self._started: float | None = None
        self._ended: float | None = None
        self._wake: Callable[[], None] | None = None
        self._cancelled = False

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` (from the engine's thread, must not block) whenever there is news."""
        self._wake = wake
        if self.done.is_set():
            self.notify()

    def notify(self) -> None:
        """Wake the listener. One that is gone cancels the task: nobody wants the answer any more."""
        if self._wake is None:
            return
        try:
            self._wake()
        except RuntimeError:
            log.info("the listener of a request is gone; cancelling it")
            self._wake = None
            self.cancel()

    def cancel(self) -> None:
        """Ask the engine to drop the task at its next step."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether the whole task is to be dropped."""
        return self._cancelled

    def begin(self) -> None:
        """The first forward pass is about to run."""
        if self._started is None:
            self._started = time.monotonic()

    def close(self, error: Exception | None = None) -> None:
        """No more news. Only the first call counts."""
        if self.done.is_set():
            return
        self.error, self._ended = error, time.monotonic()
        self.done.set()
        self.notify()

    def usage(self) -> Usage:
        """Cost so far. A task that never started has cost nothing."""
        now = self._ended or time.monotonic()
        if self._started is None:
            return Usage(queue_seconds=now - self._created)
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self._completed(),
            seconds=now - self._started,
            queue_seconds=self._started - self._created,
        )

    def _completed(self) -> int:
        return 0


class Job(Task):
    """A request and its drafts."""

    def __init__(self, request: TokenRequest, drafts: list[DraftState], streaming: bool) -> None:
        super().__init__(len(request.prompt_ids))
        self.request, self.drafts = request, drafts
        self.events: deque[TokenEvent] = deque()
        self._streaming = streaming
        self._unwanted: set[int] = set()
        self._lock = threading.Lock()

    def drop(self, index: int) -> None:
        """Ask the engine to drop one draft at its next step."""
        self._unwanted.add(index)

    def unwanted(self, draft: DraftState) -> bool:
        """Whether this draft is not worth another step."""
        return self._cancelled or draft.finish is not None or draft.index in self._unwanted

    def push(self, draft: DraftState, token: Sampled) -> None:
        """Give a draft its next token. A token that is an error fails the request."""
        if token.error:
            self.fail(RequestFailed(token.error))
            return
        try:
            with self._lock:
                draft.push(token)
        except Exception as failure:  # boundary: one request must not cost the others
            log.exception("draft %d of a request failed", draft.index)
            self.fail(failure)

    def fail(self, failure: Exception) -> None:
        """End every draft with an error."""
        known = isinstance(failure, EngineError)
        self.error = failure if known else RequestFailed(f"{type(failure).__name__}: {failure}")
        self.end("error")

    def end(self, finish: Finish) -> None:
        """End the drafts that still run."""
        with self._lock:
            for draft in self.drafts:
                draft.end(finish)

    def abort(self, draft: DraftState) -> None:
        """End one draft, if it still runs."""
        with self._lock:
            draft.end("abort")

    def publish(self) -> None:
        """Hand out what is new; close the job when every draft is over. Called once per step."""
        if self._streaming:
            fresh = [event for draft in self.drafts if not draft.told and (event := draft.event()) is not None]
            self.events.extend(fresh)
            if fresh:
                self.notify()
        if all(draft.finish is not None for draft in self.drafts):
            self.close(self.error)

    def results(self) -> list[TokenResult]:
        """The drafts as they are now."""
        with self._lock:
            return [draft.result() for draft in self.drafts]

    def _completed(self) -> int:
        return sum(len(draft) for draft in self.drafts)


@dataclass(eq=False)
class Chore(Generic[T]):
    """Work other than generating (scoring): bounded portions, one per step, then a value."""

    task: Task
    portions: Generator[int, None, T]
    value: T | None = None
