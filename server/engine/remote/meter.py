"""Counting: what every upstream call cost, posted at once to the op's receipt and to the engine's totals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from strop.server.engine.base import Counters
from strop.strategies.kit.span import Receipt
from strop.strategies.kit.types import Usage


class Totals:
    """Everything the engine ever counted. `estimated` is the part that no upstream confirmed (tokens)."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.estimated = 0
        self.running = 0
        self.waiting = 0

    def counters(self) -> Counters:
        """As the engine protocol wants them."""
        used = self.usage
        return Counters(used.prompt, used.cached, used.completion, used.calls, self.running, self.waiting)


class Call:
    """The cost of one upstream call, growing while it streams.

    Tokens are the upstream's own numbers as far as it reports them. Until it does, a token is counted for every
    chunk (or for every token the chunk names), and at the end the prompt is guessed from its length in characters.
    """

    def __init__(self, receipt: Receipt, totals: Totals, prompt_guess: int) -> None:
        self._receipt = receipt
        self._totals = totals
        self._guess = prompt_guess
        self._began = perf_counter()
        self._posted = Usage()
        self._prompt: int | None = None
        self._cached = 0
        self._drafts: dict[int, int] = {}
        self._confirmed: set[int] = set()
        self._final: int | None = None

    @property
    def prompt(self) -> int:
        """Prompt tokens as the upstream counted them; 0 as long as it has not said."""
        return self._prompt or 0

    def sent(self, drafts: int, injected: int = 0) -> None:
        """The upstream has, or may have, begun to work on `drafts` drafts."""
        if not self._posted.calls:
            self._post(Usage(injected=injected, calls=drafts))

    def count(self, index: int, tokens: int) -> None:
        """`tokens` more of draft `index` were received; an upstream's own running number overrides the count."""
        if index not in self._confirmed:
            self._drafts[index] = self._drafts.get(index, 0) + tokens

    def report(self, usage: Mapping[str, Any], index: int | None) -> None:
        """An upstream's usage object; `index` is the draft it came with, None for the closing one."""
        prompt = usage.get("prompt_tokens")
        if isinstance(prompt, int):
            self._prompt = prompt
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        if isinstance(cached, int):
            self._cached = cached
        completion = usage.get("completion_tokens")
        if not isinstance(completion, int):
            return
        if index is None:
            self._final = completion
        else:
            self._confirmed.add(index)
            self._drafts[index] = completion

    def tokens_of(self, index: int) -> int:
        """Tokens of one draft: the upstream's number if it gave one."""
        alone = self._final is not None and set(self._drafts) <= {index} and index not in self._confirmed
        return self._final or 0 if alone else self._drafts.get(index, 0)

    def update(self) -> None:
        """Bring receipt and totals up to date."""
        completion = sum(self._drafts.values()) if self._final is None else self._final
        self._post(Usage(self._prompt or 0, self._cached, completion))

    def close(self) -> None:
        """The call is over, however it ended: settle prompt and time."""
        if not self._posted.calls:
            return
        unconfirmed = 0
        if self._final is None:
            unconfirmed = sum(tokens for i, tokens in self._drafts.items() if i not in self._confirmed)
        if self._prompt is None:
            self._prompt = self._guess
            unconfirmed += self._guess
        self._totals.estimated += unconfirmed
        self.update()
        self._post(Usage(seconds=perf_counter() - self._began))

    def _post(self, now: Usage) -> None:
        """Add what is new since the last time; a field that `now` leaves at zero stays as it was posted."""
        old = self._posted
        prompt = now.prompt - old.prompt if now.prompt else 0
        cached = now.cached - old.cached if now.cached else 0
        completion = now.completion - old.completion if now.completion else 0
        if prompt or cached or completion or now.calls or now.injected or now.seconds:
            new = Usage(prompt, cached, completion, now.injected, now.calls, now.seconds)
            self._posted = old + new
            self._receipt.own += new
            self._totals.usage += new


def guess(body: Mapping[str, Any]) -> int:
    """Prompt tokens of a request, guessed: four characters each. Token ids are counted."""
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        return len(prompt)
    words = prompt if isinstance(prompt, str) else json.dumps([body.get("messages"), body.get("tools")])
    return max(1, len(words) // 4)
