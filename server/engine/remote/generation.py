"""One `Generate` op at the upstreams: as few calls as possible, drafts grown from the streams, every token counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strop.server.engine.remote import wire
from strop.server.engine.remote.dialect import Found
from strop.server.engine.remote.failures import from_event
from strop.server.engine.remote.growing import Growing
from strop.server.engine.remote.meter import Call, Totals, guess
from strop.server.engine.remote.pool import Pool, Replica, affinity
from strop.strategies.kit.errors import EngineError
from strop.strategies.kit.fan import fan_out
from strop.strategies.kit.ops import Generate, Generated
from strop.strategies.kit.span import Span, mix
from strop.strategies.kit.types import Draft


class Generation:
    """Performs one op. `span.receipt` is right at any moment, also when the caller is cancelled."""

    def __init__(self, pool: Pool, totals: Totals, op: Generate, span: Span, opening: wire.Opening) -> None:
        self._pool = pool
        self._totals = totals
        self._op = op
        self._span = span
        self._opening = opening
        self._drafts = [Growing(opening.start, i) for i in range(op.n)]
        self._counts = [0] * op.n
        self._prompt = 0
        self._key = affinity(op.chat)
        span.receipt.partials = self._partials

    async def perform(self) -> Generated:
        """All drafts: several from one call where the upstream gives several, which vLLM does not at temperature 0."""
        most = 1 if self._op.chat.sampling.temperature == 0 else self._pool.dialect.n
        await self._calls([(first, min(most, self._op.n - first)) for first in range(0, self._op.n, most)])
        await self._calls([(i, 1) for i, draft in enumerate(self._drafts) if not draft.seen])
        return Generated(tuple(map(self._draft, range(self._op.n))), self._span.receipt.usage, self._prompt)

    async def _calls(self, parts: list[tuple[int, int]]) -> None:
        """Several calls at once; each part is a first draft and how many."""

        async def one(i: int) -> None:
            await self._call(*parts[i])

        await fan_out(one, len(parts))

    async def _call(self, first: int, n: int) -> None:
        """`n` drafts from `first` on in one upstream call; a draft the upstream never mentions stays unseen."""

        async def use(replica: Replica, found: Found) -> None:
            body = wire.request(
                self._op, self._opening, n, self._seed(first), found.dialect, found.model.name, found.model.context
            )
            call = Call(self._span.receipt, self._totals, guess(body))

            def take(chunk: Mapping[str, Any]) -> None:
                self._take(chunk, first, n, call, per_draft=found.dialect.family == "vllm")

            try:
                await replica.link.stream(
                    f"/v1/{self._opening.path}", body, lambda: call.sent(n, self._opening.start.inserted), take
                )
            finally:
                for i in range(n):
                    self._counts[first + i] = call.tokens_of(i)
                self._prompt = max(self._prompt, call.prompt)
                call.close()

        await self._pool.attempt(self._key, use, n)
        if not self._drafts[first].seen or any(d.seen and d.finish is None for d in self._drafts[first : first + n]):
            raise EngineError("the upstream's stream ended before the draft did")

    def _take(self, chunk: Mapping[str, Any], first: int, n: int, call: Call, *, per_draft: bool) -> None:
        """One chunk: words to the draft and to whoever listens, tokens to the bill."""
        if chunk.get("error") is not None or chunk.get("object") == "error":
            raise from_event(chunk)
        deltas = []
        try:
            choices, usage = chunk.get("choices") or (), chunk.get("usage")
            for choice in choices:
                place = choice.get("index") or 0
                if not 0 <= place < n:
                    raise IndexError(place)
                delta, count = self._drafts[first + place].add(choice)
                call.count(place, count)
                deltas.append(delta)
            if usage:
                call.report(usage, choices[0].get("index") or 0 if per_draft and choices else None)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as failure:
            raise EngineError("the upstream sent a chunk that is not in OpenAI's form") from failure
        call.update()
        for delta in deltas:
            self._counts[delta.index] = call.tokens_of(delta.index - first)
            if self._span.live is not None and (delta.text or delta.reasoning or len(delta.tokens)):
                self._span.live(delta)

    def _seed(self, first: int) -> int | None:
        """The op's seed for its first call; other calls of the op must not repeat the same draft."""
        seed = self._op.chat.sampling.seed
        return seed if seed is None or first == 0 else mix(seed, f"draft{first}")

    def _draft(self, i: int) -> Draft:
        return self._drafts[i].draft(self._counts[i])

    def _partials(self) -> list[Draft]:
        return [self._draft(i) for i, draft in enumerate(self._drafts) if draft.seen]
