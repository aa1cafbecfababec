"""A text completion as a stream of chunks: words as they are committed, one finish chunk per choice, `[DONE]`.

There is no place for progress in this format; silence is filled with keep-alive comments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from strop.server.api import sse
from strop.server.api.batch import Batch
from strop.server.api.echo import Echo
from strop.server.api.errors import Problem
from strop.server.api.progress import machine
from strop.server.api.wire.strop import StropAnswer
from strop.server.api.wire.text import (
    CompletionRequest,
    TextChoice,
    TextCompletion,
    TextFinish,
    TextLogprobs,
    finish_of,
    logprobs_of,
)
from strop.strategies.kit.events import Committed, Event, Outcome
from strop.strategies.kit.span import Delta
from strop.strategies.kit.types import Draft, Tokens

PIECE = 1024
"""Characters of a chunk when the whole text is there at once."""


class TextScript:
    """The chunks of one request. Words that were committed live are not repeated when the text is complete."""

    def __init__(self, batch: Batch, echoes: Sequence[Echo], wire: CompletionRequest, head: TextCompletion) -> None:
        self.batch = batch
        self._echoes = echoes
        self._wire = wire
        self._head = head
        self._said: dict[int, int] = {}
        self._echoed: dict[int, int] = {}
        self._live = 0

    def opening(self) -> Iterator[bytes]:
        """Nothing: this format has no role to announce."""
        return iter(())

    def on(self, event: Event) -> Iterator[bytes]:
        """The words of the answers; machine-readable progress if asked for."""
        if isinstance(event, Committed):
            yield from self._words(event.delta)
        elif self.batch.ask.selection.stream_trace and (facts := machine(event)):
            yield self._chunk(0, "", strop=facts)

    def closing(self, outcome: Outcome) -> Iterator[bytes]:
        """What has not been streamed yet, and the end of every choice."""
        ends: list[TextFinish] = ["length"] * self.batch.ask.choices
        for i, each in enumerate(self.batch.outcomes):
            for j, draft in enumerate(each.answers):
                index = i * self.batch.each + j
                yield from self._rest(index, draft)
                ends[index] = finish_of(draft)
        for index, end in enumerate(ends):
            about = self.batch.strop(outcome) if index == len(ends) - 1 else None
            yield self._chunk(index, "", finish=end, strop=about)
        if self._wire.stream_options and self._wire.stream_options.include_usage:
            yield sse.data({**self._head, "usage": self.batch.usage(outcome)})
        yield sse.DONE

    def failed(self, problem: Problem) -> Iterator[bytes]:
        """An error event; clients raise it. There is no `[DONE]` after it."""
        yield sse.data(problem.body)

    def _words(self, delta: Delta) -> Iterator[bytes]:
        self._live += max(len(delta.tokens), 1 if delta.text else 0)
        if delta.text:
            yield from self._echo(delta.index)
            yield self._text(delta.index, delta.text, delta.tokens)

    def _rest(self, index: int, draft: Draft) -> Iterator[bytes]:
        yield from self._echo(index)
        done = self._said.get(index, 0)
        if not done and logprobs_of(draft.tokens, self._wire.logprobs):
            yield self._text(index, draft.text, draft.tokens)
            return
        for start in range(done, len(draft.text), PIECE):
            yield self._text(index, draft.text[start : start + PIECE], Tokens())

    def _echo(self, index: int) -> Iterator[bytes]:
        """The prompt, before the first word of a choice."""
        if index not in self._echoed:
            echo = self._echoes[index // self.batch.each]
            self._echoed[index] = len(echo.text)
            if echo.text:
                yield self._chunk(index, echo.text, logprobs=echo.logprobs())

    def _text(self, index: int, text: str, tokens: Tokens) -> bytes:
        said = self._said.get(index, 0)
        self._said[index] = said + len(text)
        logprobs = logprobs_of(tokens, self._wire.logprobs, self._echoed[index] + said)
        return self._chunk(index, text, logprobs=logprobs)

    def _chunk(
        self,
        index: int,
        text: str,
        *,
        logprobs: TextLogprobs | None = None,
        finish: TextFinish | None = None,
        strop: Mapping[str, object] | StropAnswer | None = None,
    ) -> bytes:
        choice: TextChoice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        chunk: TextCompletion = {**self._head, "choices": [choice]}
        if strop is not None:
            chunk["strop"] = {**strop}
        if self._wire.stream_options and self._wire.stream_options.continuous_usage_stats:
            chunk["usage"] = self.batch.usage_so_far(self._live)
        return sse.data(chunk)
