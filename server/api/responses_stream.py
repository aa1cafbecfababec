"""A response as a stream of typed events, numbered in order.

Progress is a reasoning item with a summary, the official place for it; the answer is a message item; calls follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from strop.server.api import sse
from strop.server.api.errors import Problem
from strop.server.api.ledger import Ledger
from strop.server.api.progress import Progress
from strop.server.api.wire.response_object import Item, ResponseObject, ending, summary_part, usage_of
from strop.strategies.kit.events import Committed, Event, Outcome
from strop.strategies.kit.types import Draft, Tokens


class ResponsesScript:
    """The events of one run. Items are opened when their first words come and closed before the next one opens."""

    def __init__(self, ledger: Ledger, made: ResponseObject) -> None:
        self.ledger = ledger
        self._made = made
        self._progress = Progress()
        self._count = 0
        self._output: list[Item] = []
        self._thought = ""
        self._text: str | None = None

    def opening(self) -> Iterator[bytes]:
        """The empty response, twice: created, and in progress."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._made.body("in_progress", []))

    def on(self, event: Event) -> Iterator[bytes]:
        """Progress until the answer begins, then the answer's words."""
        if isinstance(event, Committed):
            if event.delta.reasoning and self._text is None:
                yield from self._think(event.delta.reasoning)
            if event.delta.text:
                yield from self._words(event.delta.text, event.delta.tokens)
        elif self._text is None and (line := self._progress.line(event)):
            yield from self._think(f"{line}\n")

    def closing(self, outcome: Outcome) -> Iterator[bytes]:
        """What has not been streamed yet, and the whole response."""
        draft = outcome.answers[0]
        rest = draft.text[len(self._text or "") :]
        if rest or not (draft.tool_calls or self._text):
            yield from self._words(rest, Tokens() if self._text else draft.tokens)
        yield from self._end_thought()
        yield from self._end_text(draft)
        for i, _ in enumerate(draft.tool_calls):
            yield from self._call(draft, i)
        body = self._made.body("completed", self._output) | ending(draft)
        body |= {"usage": usage_of(self.ledger.usage(outcome)), "strop": self.ledger.strop(outcome)}
        yield self._event(f"response.{body['status']}", response=body)

    def failed(self, problem: Problem) -> Iterator[bytes]:
        """The response failed; nothing follows."""
        error = {"code": "server_error", "message": problem.message}
        yield self._event(
            "response.failed",
            response=self._made.body(
                "failed",
                self._output,
            )
            | {"error": error},
        )

    def _think(self, text: str) -> Iterator[bytes]:
        if not self._thought:
            yield self._item("added", self._made.reasoning(""))
            yield self._summary("part.added", part=summary_part(""))
        self._thought += text
        yield self._summary("text.delta", delta=text)

    def _end_thought(self) -> Iterator[bytes]:
        if self._thought and not self._output:
            yield self._summary("text.done", text=self._thought)
            yield self._summary("part.done", part=summary_part(self._thought))
            yield from self._finish(self._made.reasoning(self._thought))

    def _words(self, text: str, tokens: Tokens) -> Iterator[bytes]:
        if self._text is None:
            yield from self._end_thought()
            yield self._item("added", self._made.message("", Tokens(), "in_progress"))
            yield self._content("response.content_part.added", part=self._made.part("", Tokens()))
            self._text = ""
        self._text += text
        if text:
            logprobs = self._made.logprobs(tokens)
            yield self._content("response.output_text.delta", delta=text, logprobs=logprobs)

    def _end_text(self, draft: Draft) -> Iterator[bytes]:
        if self._text is None:
            return
        part = self._made.part(draft.text, draft.tokens)
        yield self._content("response.output_text.done", text=draft.text, logprobs=part["logprobs"])
        yield self._content("response.content_part.done", part=part)
        yield from self._finish(self._made.message(draft.text, draft.tokens, ending(draft)["status"]))

    def _call(self, draft: Draft, i: int) -> Iterator[bytes]:
        call = draft.tool_calls[i]
        started, item = self._made.call(i, call, "in_progress"), self._made.call(i, call)
        place = {"item_id": item["id"], "output_index": len(self._output)}
        yield self._item("added", started)
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        yield from self._finish(item)

    def _finish(self, item: Item) -> Iterator[bytes]:
        yield self._item("done", item)
        self._output.append(item)

    def _item(self, what: str, item: Item) -> bytes:
        return self._event(f"response.output_item.{what}", output_index=len(self._output), item=item)

    def _summary(self, what: str, **fields: Any) -> bytes:
        place = {"item_id": f"rs_{self._made.suffix}", "output_index": 0, "summary_index": 0}
        return self._event(f"response.reasoning_summary_{what}", **place, **fields)

    def _content(self, kind: str, **fields: Any) -> bytes:
        place = {"item_id": f"msg_{self._made.suffix}", "output_index": len(self._output), "content_index": 0}
        return self._event(kind, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._count, **fields}
        self._count += 1
        return f"event: {kind}\n".encode() + sse.data(event)
