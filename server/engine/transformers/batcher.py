"""Continuous batching: requests join and leave the running batch at every step.

One `step`: drop what is no longer wanted; spend up to `prefill_tokens` on prompts and on scoring; let prefilled drafts
join the slots; decode one token for every row. All drafts of a request share one prefill: they join as copies of its
sheet. When the rectangle of the slots would outgrow its bound, the row that joined last is parked (its keys and values
kept) and rejoins later.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from strop.server.engine.chat.types import RequestFailed
from strop.server.engine.transformers.cache import Sheet, Slots
from strop.server.engine.transformers.draft import DraftState
from strop.server.engine.transformers.job import Chore, Job
from strop.server.engine.transformers.prefix import PrefixStore
from strop.server.engine.transformers.runner import Runner
from strop.server.engine.transformers.sampling import sample

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the engine. Memory for keys and values is at most twice `kv_tokens` (while growing) plus
    `prefix_tokens`.

    `rows` decode together; `prefill_tokens` is the most that one step spends on prompts, and thereby how long a long
    prompt can hold up the others.
    """

    rows: int = 32
    kv_tokens: int = 32768
    prefix_tokens: int = 8192
    prefill_tokens: int = 256


@dataclass(eq=False, slots=True)
class _Ready:
    """A draft that may join: fresh from a prefill with `logits` [V], or parked with its latest `token`."""

    job: Job
    draft: DraftState
    sheet: Sheet
    logits: Tensor | None
    token: int = -1


@dataclass(eq=False, slots=True)
class _Row:
    """A draft in the slots; `token` is sampled but not yet forwarded."""

    job: Job
    draft: DraftState
    token: int


class Batcher:
    """Not thread-safe: everything here happens on the engine's thread."""

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self.runner, self.limits = runner, limits
        self.prefixes = PrefixStore(limits.prefix_tokens)
        self.slots = Slots(runner.geometry, limits.rows, limits.kv_tokens)
        self.rows: list[_Row] = []
        self.waiting: deque[Job] = deque()
        self.ready: deque[_Ready] = deque()
        self.chores: deque[Chore[Any]] = deque()
        self._prefilling: tuple[Job, Generator[int, None, int]] | None = None

    @property
    def idle(self) -> bool:
        """Nothing to do."""
        return not (self.rows or self.waiting or self.ready or self.chores or self._prefilling)

    @torch.inference_mode()
    def step(self) -> None:
        """Advance everything a little; see the module's docstring."""
        touched = self._drop_unwanted()
        touched |= self._prefill()
        self._advance_chores()
        touched |= self._join()
        touched |= self._decode()
        for job in touched:
            job.publish()

    def abandon(self, error: Exception) -> None:
        """Close every task with an error and forget it."""
        jobs = {row.job for row in self.rows} | {entry.job for entry in self.ready} | set(self.waiting)
        if self._prefilling is not None:
            jobs.add(self._prefilling[0])
        for job in jobs:
            job.fail(error)
            job.publish()
        for chore in self.chores:
            chore.task.close(error)
        self.rows, self.ready, self.waiting, self.chores = [], deque(), deque(), deque()
        self._prefilling = None

    def _drop_unwanted(self) -> set[Job]:
        touched = set()
        for number in range(len(self.rows) - 1, -1, -1):
            row = self.rows[number]
            if row.job.unwanted(row.draft):
                self._leave(number)
                touched.add(row.job)
        for entry in [entry for entry in self.ready if entry.job.unwanted(entry.draft)]:
            self.ready.remove(entry)
            touched.add(entry.job)
            entry.job.abort(entry.draft)
        for job in [job for job in self.waiting if job.cancelled]:
            self.waiting.remove(job)
            job.end("abort")
            touched.add(job)
        return touched

    def _prefill(self) -> set[Job]:
        """Prompts, first come first served, while no prefilled draft is still waiting for a row."""
        touched, left = set(), self.limits.prefill_tokens
        while left > 0 and not self.ready and len(self.rows) < self.limits.rows:
            if self._prefilling is None:
                if not self.waiting:
                    break
                job = self.waiting.popleft()
                self._prefilling = job, self._read(job)
            job, portions = self._prefilling
            touched.add(job)
            if job.cancelled:
                self._prefilling = None
                job.end("abort")
                continue
            try:
                left -= next(portions)
            except StopIteration as end:
                left -= end.value
                self._prefilling = None
            except Exception as failure:  # boundary: one request must not cost the others
                log.exception("a prompt failed")
                job.fail(failure)
                self._prefilling = None
        return touched

    def _read(self, job: Job) -> Generator[int, None, int]:
        """Compute a prompt in portions, then make its drafts ready. Yields, and at the end returns, portion sizes."""
        job.begin()
        ids = job.request.prompt_ids
        sheet = self.sheet_for(ids[:-1], len(ids))
        job.cached_tokens = sheet.length
        size = self.limits.prefill_tokens
        while sheet.length + size < len(ids):
            self.runner.prefill(sheet, ids[sheet.length : sheet.length + size])
            yield size
        last = ids[sheet.length :]
        logits = self.runner.prefill(sheet, last)
        if bool(logits.isnan().any()):
            raise RequestFailed("the model produced numbers that are not finite")
        self.prefixes.add(ids, sheet.written)
        self.ready.extend(_Ready(job, draft, sheet, logits) for draft in job.drafts)
        return len(last)

    def sheet_for(self, ids: Sequence[int], capacity: int) -> Sheet:
        """A sheet with the longest known prefix of `ids` already in it."""
        match = self.prefixes.match(ids)
        sheet = Sheet(self.runner.geometry, capacity)
        for part in match.parts:
            sheet.append(part)
        return sheet

    def _advance_chores(self) -> None:
        """One portion of the oldest chore."""
        if not self.chores:
            return
        chore = self.chores[0]
        if chore.task.cancelled:
            self.chores.popleft()
            chore.task.close()
            return
        chore.task.begin()
        try:
            next(chore.portions)
        except StopIteration as end:
            self.chores.popleft()
            chore.value = end.value
            chore.task.close()
        except Exception as failure:  # boundary: one request must not cost the others
            log.exception("scoring failed")
            self.chores.popleft()
            chore.task.close(RequestFailed(f"{type(failure).__name__}: {failure}"))

    def _join(self) -> set[Job]:
        """Fill free rows. Fresh drafts sample their first token here; one that ends with it never takes a row."""
        joining: list[_Ready] = []
        longest = max(self.slots.lengths, default=0)
        while self.ready:
            longest = max(longest, self.ready[0].sheet.length + 1)
            if not self.slots.fits(len(self.rows) + len(joining) + 1, longest):
                break
            joining.append(self.ready.popleft())
        fresh = [entry for entry in joining if entry.logits is not None]
        for entry in fresh:
            self._prepare(entry)
        fresh = [entry for entry in fresh if entry.draft.finish is None]
        if fresh:
            logits = torch.stack([entry.logits for entry in fresh if entry.logits is not None])
            for entry, token in zip(fresh, sample(logits, [entry.draft.sampling for entry in fresh]), strict=True):
                entry.token = token.id
                entry.job.push(entry.draft, token)
        for entry in joining:
            if entry.draft.finish is None:
                self.slots.join(entry.sheet)
                self.rows.append(_Row(entry.job, entry.draft, entry.token))
        return {entry.job for entry in joining}

    def _decode(self) -> set[Job]:
        while self.rows and not self.slots.fits(len(self.rows), max(self.slots.lengths) + 1):
            self._park()
        for row in self.rows:
            self._prepare(row)
        if not self.rows:
            return set()
        logits = self.runner.decode(self.slots, [row.token for row in self.rows])
        tokens = sample(logits, [row.draft.sampling for row in self.rows])
        touched = {row.job for row in self.rows}
        for number in range(len(self.rows) - 1, -1, -1):
            row = self.rows[number]
            row.token = tokens[number].id
            if row.draft.finish is None:
                row.job.push(row.draft, tokens[number])
            if row.draft.finish is not None:
                self._leave(number)
        return touched

    def _prepare(self, entry: _Row | _Ready) -> None:
        try:
            entry.draft.prepare()
        except RequestFailed as failure:
            entry.job.fail(failure)

    def _park(self) -> None:
        """Set the row that joined last aside."""
        row = self.rows.pop()
        number = len(self.rows)
        self.ready.appendleft(_Ready(row.job, row.draft, self.slots.park(number), None, row.token))
        self.slots.leave(number)

    def _leave(self, number: int) -> None:
        """Free a row and remember its keys and values, unless they may be bad."""
        row = self.rows[number]
        row.job.abort(row.draft)
        length = self.slots.lengths[number]
        poisoned = row.draft.finish == "error"
        if not poisoned:
            ids = list(islice((*row.job.request.prompt_ids, *row.draft.ids), length))
            self.prefixes.add(ids, self.slots.kv[:, :, number, :, :length])
        moved = self.slots.leave(number, poisoned)
        self.rows[number] = self.rows[moved]
        self.rows.pop()
