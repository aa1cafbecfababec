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

from strop.server.engine.vllm import guard, params
from strop.server.engine.vllm.failures import explained
from strop.server.engine.vllm.generation import Place
from strop.server.engine.vllm.instance import Instance
from strop.strategies.kit.errors import EngineError
from strop.strategies.kit.fan import first_cause
from strop.strategies.kit.types import Logprob, Usage

LOWEST = -9999.0  # JSON has no minus infinity


def tail(flat: Any, ids: Sequence[int], prefix: int, cached: int) -> tuple[float, ...] | None:
    """Logprobs of the last tokens `ids` of a prompt whose first `prefix` tokens precede them; None if they are not
    to be had. `flat` is vLLM's FlatLogprobs; it may be shorter than the prompt, and is read from its end.
    """
    if cached > prefix - 1 or flat is None or len(flat) < len(ids):
        return None
    first = len(flat) - len(ids)
    starts = flat.start_indices[first:]
    if [flat.token_ids[start] for start in starts] != list(ids):
        return None
    values = [flat.logprobs[start] for start in starts]
    return tuple(value if math.isfinite(value) else LOWEST for value in values)


class Weighing:
    """The likelihoods of one op; `usage` can be asked at any time."""

    def __init__(
        self, instance: Instance, prefix: tuple[int, ...], drafts: Sequence[tuple[int, ...]], place: Place
    ) -> None:
        for ids in drafts:
            guard.check_ids(prefix + ids, instance.bounds)
        self._instance, self._prefix, self._drafts, self._place = instance, prefix, list(drafts), place
        self._values: dict[int, tuple[float, ...]] = {}
        self.usage = Usage()

    async def run(self) -> tuple[Logprob, ...]:
        """One likelihood per draft, in order. Raises strop's errors."""
        try:
            async with anyio.create_task_group() as group:
                for index in range(len(self._drafts)):
                    group.start_soon(self._one, index)
        except BaseExceptionGroup as failures:
            cause = first_cause(failures)
            if not isinstance(cause, Exception):
                raise
            raise explained(cause) from cause
        return tuple(Logprob(self._values[index]) for index in range(len(self._drafts)))

    async def _one(self, index: int) -> None:
        ids = self._drafts[index]
        values: tuple[float, ...] | None = () if not ids else await self._ask(ids, cached=True)
        if values is None:
            values = await self._ask(ids, cached=False)
        if values is None:
            raise EngineError("vLLM returned no usable prompt logprobs")
        self._values[index] = values

    async def _ask(self, ids: tuple[int, ...], *, cached: bool) -> tuple[float, ...] | None:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        llm, prompt = self._instance.llm, [*self._prefix, *ids]
        sampling = SamplingParams(**params.weighing(cached), output_kind=RequestOutputKind.FINAL_ONLY)
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
                self._count(output)
        return tail(output.prompt_logprobs, ids, len(self._prefix), output.num_cached_tokens or 0)

    def _count(self, output: Any) -> None:
        """vLLM must generate a token to score a prompt; it is billed."""
        made = len(output.outputs[0].token_ids)
        if made:
            self.usage += Usage(len(output.prompt_token_ids), output.num_cached_tokens or 0, made)
