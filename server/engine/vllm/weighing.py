"""One `Logprobs` op on vLLM: the likelihood of given drafts, read off `prompt_logprobs`.

The prompt is taken from the prefix cache, so a draft costs its own tokens only. What vLLM returns for cached positions
is garbage (Model Runner V1) or missing (V2); the numbers of a draft are good if the tokens before its first one were
not all cached. If they were, the request is repeated without reading the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import anyio

from strop.server.engine.chat.types import SequenceScore, TopToken
from strop.server.engine.vllm import guard, params
from strop.server.engine.vllm.failures import explained
from strop.server.engine.vllm.generation import Place
from strop.server.engine.vllm.instance import Instance
from strop.strategies.kit.errors import EngineError
from strop.strategies.kit.fan import first_cause
from strop.strategies.kit.types import Usage

LOWEST = -9999.0  # JSON has no minus infinity


def tail(flat: Any, ids: Sequence[int], prefix: int, cached: int) -> SequenceScore | None:
    """Numbers of the last tokens `ids` of a prompt whose first `prefix` tokens precede them; None if they are not
    to be had. `flat` is vLLM's FlatLogprobs; it may be shorter than the prompt, and is read from its end.
    """
    if cached > prefix - 1 or flat is None or len(flat) < len(ids):
        return None
    first = len(flat) - len(ids)
    places = list(zip(flat.start_indices[first:], flat.end_indices[first:], strict=True))
    if [flat.token_ids[start] for start, _ in places] != list(ids):
        return None
    values = [flat.logprobs[start] for start, _ in places]
    best = (zip(flat.token_ids[start + 1 : end], flat.logprobs[start + 1 : end], strict=True) for start, end in places)
    top = tuple(tuple(TopToken(i, value) for i, value in row) for row in best)
    return SequenceScore(tuple(value if math.isfinite(value) else LOWEST for value in values), (), top)


def alone(rest: SequenceScore) -> SequenceScore:
    """The numbers of a text with nothing before it: its first token is read, not scored."""
    return SequenceScore((0.0, *rest.logprobs), (), ((), *rest.top))


class Weighing:
    """The likelihoods of one op; `usage` can be asked at any time."""

    def __init__(
        self, instance: Instance, prefix: tuple[int, ...], drafts: Sequence[tuple[int, ...]], top: int, place: Place
    ) -> None:
        for ids in drafts:
            guard.check_weighing(prefix, ids, top, instance.bounds)
        self._instance, self._prefix, self._drafts, self._place = instance, prefix, list(drafts), place
        self._top = top
        self._values: dict[int, SequenceScore] = {}
        self._cached: dict[int, int] = {}
        self.counted = Usage()

    @property
    def usage(self) -> Usage:
        """The bill: the prompt once and every draft. vLLM must generate a token to score a text; it is billed too."""
        if not self._cached:
            return Usage()
        given = len(self._prefix) + sum(len(self._drafts[index]) for index in self._cached)
        cached = min(len(self._prefix), *self._cached.values())
        return Usage(given, cached, self.counted.completion)

    async def run(self) -> list[SequenceScore]:
        """The numbers of every draft, in order. Raises strop's errors."""
        try:
            async with anyio.create_task_group() as group:
                for index in range(len(self._drafts)):
                    group.start_soon(self._one, index)
        except BaseExceptionGroup as failures:
            cause = first_cause(failures)
            if not isinstance(cause, Exception):
                raise
            raise explained(cause) from cause
        return [self._values[index] for index in range(len(self._drafts))]

    async def _one(self, index: int) -> None:
        ids = self._drafts[index]
        if not ids:
            self._values[index] = SequenceScore((), ())
        elif self._prefix:
            self._values[index] = await self._scored(index, self._prefix, ids)
        else:
            rest = await self._scored(index, ids[:1], ids[1:]) if len(ids) > 1 else SequenceScore((), ())
            self._values[index] = alone(rest)

    async def _scored(self, index: int, prefix: tuple[int, ...], ids: tuple[int, ...]) -> SequenceScore:
        for cached in (True, False):
            found = await self._ask(index, prefix, ids, cached=cached)
            if found is not None:
                return found
        raise EngineError("vLLM returned no usable prompt logprobs")

    async def _ask(
        self, index: int, prefix: tuple[int, ...], ids: tuple[int, ...], *, cached: bool
    ) -> SequenceScore | None:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        llm, prompt = self._instance.llm, [*prefix, *ids]
        sampling = SamplingParams(**params.weighing(self._top, cached), output_kind=RequestOutputKind.FINAL_ONLY)
        with anyio.CancelScope(shield=True):
            queue = await llm.add_request(self._place.key, tokens_input(prompt, cache_salt=self._place.salt), sampling)
        output: Any = None
        try:
            output = await queue.get()
        finally:
            if output is None and not self._instance.dead:
                with anyio.move_on_after(10, shield=True):
                    await llm.abort(queue.request_id, internal=True)
                    output = queue.get_nowait()
            if output is not None:
                self._count(index, output)
        return tail(output.prompt_logprobs, ids, len(prefix), output.num_cached_tokens or 0)

    def _count(self, index: int, output: Any) -> None:
        made = len(output.outputs[0].token_ids)
        if made:
            cached = output.num_cached_tokens or 0
            self._cached[index] = cached
            self.counted += Usage(len(output.prompt_token_ids), cached, made)
