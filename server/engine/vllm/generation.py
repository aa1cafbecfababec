"""One `Generate` op on vLLM: a request per draft, all at once, and an exact bill whatever happens.

The drafts are separate requests of the same prompt. vLLM reads the prompt once and takes it from the prefix cache for
the others, and each draft can be stopped alone, which stop strings need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from strop.server.engine.chat.translate import Asked
from strop.server.engine.chat.types import TokenResult
from strop.server.engine.vllm import guard, params
from strop.server.engine.vllm.draft import GrowingDraft
from strop.server.engine.vllm.failures import explained
from strop.server.engine.vllm.instance import Instance
from strop.strategies.kit.errors import EngineError
from strop.strategies.kit.fan import first_cause
from strop.strategies.kit.span import Delta, Live
from strop.strategies.kit.types import Usage

SHORT = 64  # texts of up to this many tokens are made at once, longer ones in a worker thread


@dataclass(frozen=True, slots=True)
class Place:
    """What a request carries besides its tokens: its name in vLLM's logs, its priority, and whose cache it may use."""

    key: str
    priority: int = 0
    salt: str | None = None


class Generation:
    """The drafts of one op. `usage` and `results` can be asked at any time, also after a cancellation."""

    def __init__(self, instance: Instance, asked: Asked, report: params.Report, place: Place) -> None:
        guard.check(asked.request, instance.bounds)
        self._instance, self._asked, self._report, self._place = instance, asked, report, place
        self._request = asked.request
        tongue = instance.tongue
        enders = frozenset(params.stop_ids(self._request, tongue.eos_ids))
        self._drafts = [
            GrowingDraft(i, self._request, tongue.tokenizer, enders, report.stats) for i in range(self._request.n)
        ]
        self._streams = params.streams(self._request, report)

    def results(self) -> Sequence[TokenResult]:
        """The drafts as they are now."""
        return [draft.result() for draft in self._drafts]

    @property
    def usage(self) -> Usage:
        """The bill so far: the prompt once, of which `cached` was there before the first draft, and every token."""
        begun = [draft for draft in self._drafts if draft.started]
        if not begun:
            return Usage()
        return Usage(
            prompt=len(self._request.prompt_ids),
            cached=min(draft.cached for draft in begun),
            completion=sum(draft.generated for draft in begun),
            injected=self._asked.injected,
            calls=len(begun),
            seconds=max(draft.worked for draft in begun),
        )

    @property
    def counted(self) -> Usage:
        """The same in vLLM's way of counting: the prompt once per draft."""
        begun = [draft for draft in self._drafts if draft.started]
        return Usage(
            prompt=len(self._request.prompt_ids) * len(begun),
            cached=sum(draft.cached for draft in begun),
            completion=sum(draft.generated for draft in begun),
        )

    async def run(self, live: Live | None) -> None:
        """Until every draft is over. Raises strop's errors; the first one stops the other drafts."""
        try:
            self._instance.llm.check_admission(self._request.n)
            async with anyio.create_task_group() as group:
                for draft in self._drafts:
                    group.start_soon(self._one, draft, live)
        except BaseExceptionGroup as failures:
            cause = first_cause(failures)
            if not isinstance(cause, Exception):
                raise
            raise explained(cause) from cause
        except Exception as failure:  # boundary: vLLM's errors leave in strop's words
            raise explained(failure) from failure

    async def _one(self, draft: GrowingDraft, live: Live | None) -> None:
        with anyio.CancelScope(shield=True):  # half an admission would leave a request that nobody can abort
            queue = await self._admit(draft.index)
        try:
            while not draft.over and draft.finish is None:
                output = queue.get_nowait() or await queue.get()
                await self._take(draft, output)
                self._tell(draft, live)
        finally:
            if not draft.over:
                await self._abort(draft, queue)
        if draft.finish == "error":
            raise EngineError("vLLM gave this request up")

    async def _admit(self, index: int) -> Any:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        request, bounds = self._request, self._instance.bounds
        arguments = params.arguments(request, index, bounds.context, self._instance.tongue.eos_ids, self._report)
        if request.grammar is not None:
            arguments["structured_outputs"] = StructuredOutputsParams(**params.structured(request.grammar))
        kind = RequestOutputKind.DELTA if self._streams else RequestOutputKind.FINAL_ONLY
        sampling = SamplingParams(**arguments, output_kind=kind)
        return await self._instance.llm.add_request(
            f"{self._place.key}[{index}]",
            tokens_input(list(request.prompt_ids), cache_salt=self._place.salt),
            sampling,
            priority=self._place.priority if self._instance.ranked else 0,
        )

    async def _take(self, draft: GrowingDraft, output: Any) -> None:
        if len(output.outputs[0].token_ids) > SHORT:
            await anyio.to_thread.run_sync(draft.take, output)
        else:
            draft.take(output)

    def _tell(self, draft: GrowingDraft, live: Live | None) -> None:
        if live is None:
            return
        event = draft.event()
        if event is not None:
            live(Delta(event.text, event.index, tokens=self._instance.translator.columns(event)))

    async def _abort(self, draft: GrowingDraft, queue: Any) -> None:
        """Stop the request and take what it made meanwhile, so that the bill is what vLLM counted."""
        if self._instance.dead:
            return
        with anyio.move_on_after(10, shield=True):
            await self._instance.llm.abort(queue.request_id, internal=True)
            left = queue.get_nowait()
            if left is not None:
                draft.take(left)
