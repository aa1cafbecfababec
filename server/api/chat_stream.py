"""A chat completion as a stream of chunks.

Per choice: a role chunk, progress as reasoning, content or tool calls, a finish chunk. Then one usage chunk if it was
asked for, and `[DONE]`. The `strop` object rides on the last finish chunk. `choices` is empty in the usage chunk only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from strop.server.api import sse
from strop.server.api.errors import Problem
from strop.server.api.ledger import Ledger
from strop.server.api.progress import Progress, machine
from strop.server.api.wire.chat import Style
from strop.server.api.wire.completion import (
    ChatCompletionChunk,
    ChoiceLogprobs,
    ChunkChoice,
    WireDelta,
    WireFinish,
    call_of,
    finish_of,
    function_of,
    logprobs_of,
)
from strop.server.api.wire.strop import StropAnswer
from strop.strategies.kit.events import Committed, Event, Outcome
from strop.strategies.kit.span import Delta
from strop.strategies.kit.types import Draft

PIECE = 1024
"""Characters of a content chunk when the whole text is there at once."""


class ChatScript:
    """The chunks of one run. Words that were committed live are not repeated when the answer is complete."""

    def __init__(self, ledger: Ledger, style: Style, created: int) -> None:
        self.ledger = ledger
        self.style = style
        self._created = created
        self._progress = Progress()
        self._committed: dict[int, str] = {}
        self._thought: dict[int, str] = {}
        self._live = 0

    def opening(self) -> Iterator[bytes]:
        """The role of every choice."""
        for index in range(self.ledger.ask.choices):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def on(self, event: Event) -> Iterator[bytes]:
        """Progress until the answer begins, then the answer's words."""
        if isinstance(event, Committed):
            yield from self._words(event.delta)
            return
        line = self._progress.line(event)
        if line and not self._committed:
            yield self._reasoning(0, f"{line}\n")
        if self.ledger.ask.selection.stream_trace and (facts := machine(event)):
            yield self._chunk(0, {}, strop=facts)

    def closing(self, outcome: Outcome) -> Iterator[bytes]:
        """What has not been streamed yet, and the end."""
        for index, draft in enumerate(outcome.answers):
            yield from self._rest(index, draft)
        ends = [finish_of(draft, self.style) for draft in outcome.answers]
        # A run that ended early may have fewer answers than choices; every choice that was opened is closed.
        ends += ["length"] * (self.ledger.ask.choices - len(ends))
        for index, end in enumerate(ends):
            about = self.ledger.strop(outcome) if index == len(ends) - 1 else None
            yield self._chunk(index, {}, finish=end, strop=about)
        if self.style.include_usage:
            yield sse.data({**self._head(), "choices": [], "usage": self.ledger.usage(outcome)})
        yield sse.DONE

    def failed(self, problem: Problem) -> Iterator[bytes]:
        """An error event; clients raise it. There is no `[DONE]` after it."""
        yield sse.data(problem.body)

    def _words(self, delta: Delta) -> Iterator[bytes]:
        self._live += max(len(delta.tokens), 1 if delta.text else 0)
        if delta.reasoning:
            self._thought[delta.index] = self._thought.get(delta.index, "") + delta.reasoning
            yield self._reasoning(delta.index, delta.reasoning)
        if delta.text:
            self._committed[delta.index] = self._committed.get(delta.index, "") + delta.text
            logprobs = logprobs_of(delta.tokens, self.style)
            yield self._chunk(delta.index, {"content": delta.text}, logprobs=logprobs)

    def _rest(self, index: int, draft: Draft) -> Iterator[bytes]:
        if draft.reasoning and index not in self._thought:
            yield self._reasoning(index, draft.reasoning)
        done = len(self._committed.get(index, ""))
        logprobs = None if done else logprobs_of(draft.tokens, self.style)
        if logprobs is not None:
            yield self._chunk(index, {"content": draft.text}, logprobs=logprobs)
        else:
            for start in range(done, len(draft.text), PIECE):
                yield self._chunk(index, {"content": draft.text[start : start + PIECE]})
        if draft.tool_calls and self.style.functions:
            yield self._chunk(index, {"function_call": function_of(draft.tool_calls[0])})
        elif draft.tool_calls:
            calls = enumerate(draft.tool_calls)
            yield self._chunk(index, {"tool_calls": [{**call_of(call), "index": i} for i, call in calls]})

    def _reasoning(self, index: int, text: str) -> bytes:
        return self._chunk(index, {"reasoning_content": text, "reasoning": text})

    def _head(self) -> ChatCompletionChunk:
        ask = self.ledger.ask
        head: ChatCompletionChunk = {
            "id": ask.id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": ask.model,
            "choices": [],
        }
        if self.style.service_tier:
            head["service_tier"] = "default"
        return head

    def _chunk(
        self,
        index: int,
        delta: WireDelta,
        *,
        logprobs: ChoiceLogprobs | None = None,
        finish: WireFinish | None = None,
        strop: Mapping[str, object] | StropAnswer | None = None,
    ) -> bytes:
        choice: ChunkChoice = {"index": index, "delta": delta, "finish_reason": finish}
        if logprobs is not None:
            choice["logprobs"] = logprobs
        chunk = self._head()
        chunk["choices"] = [choice]
        if strop is not None:
            chunk["strop"] = {**strop}
        if self.style.continuous_usage:
            chunk["usage"] = self.ledger.usage_so_far(self._live)
        return sse.data(chunk)
