"""The text of one draft in the making: pieces per token, stop strings, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strop.server.engine.chat.detokenize import Detokenizer, StopWatch
from strop.server.engine.chat.types import Finish, StopReason


class Spelling:
    """Feed it tokens in order. A stop string is not looked for before `min_tokens` tokens.

    `pieces` has one text per token; joined they are the text. They change only behind `cleared`.
    """

    def __init__(
        self, tokenizer: Any, prompt_ids: Sequence[int], stop: Sequence[str] = (), min_tokens: int = 0
    ) -> None:
        self.pieces: list[str] = []
        self.finish: Finish | None = None
        self.stop_reason: StopReason = None
        self._detokenizer = Detokenizer(tokenizer, prompt_ids)
        self._watch = StopWatch(stop)
        self._min_tokens = min_tokens
        self._text = ""
        self._spelled = 0  # the latest token that has a text of its own

    def __len__(self) -> int:
        return len(self.pieces)

    def push(self, token: int) -> None:
        """The next token; sets `finish` when it completes a stop string."""
        piece = self._detokenizer.push(token)
        self.pieces.append(piece)
        self._spelled = len(self.pieces) - 1
        self._text += piece
        self._stop_string(len(piece))

    def push_last(self, reason: StopReason = None) -> None:
        """A token that ends the draft and has no text."""
        self.pieces.append("")
        self.end("stop", reason)

    def end(self, finish: Finish, reason: StopReason = None) -> None:
        """Close the draft; what was held back becomes final. Harmless when it is closed already."""
        if self.finish is not None:
            return
        self.finish, self.stop_reason = finish, reason
        rest = self._detokenizer.flush()
        if rest:
            self.pieces[self._spelled] += rest
            self._text += rest
            self._stop_string(len(rest))

    def cleared(self) -> int:
        """How many tokens have a text that nothing can change any more."""
        if self.finish is not None:
            return len(self.pieces)
        count, held = len(self.pieces), self._watch.pending(self._text)
        while held > 0 and count > 0:
            count -= 1
            held -= len(self.pieces[count])
        return min(count, len(self.pieces) - self._detokenizer.waiting)

    def _stop_string(self, grown_by: int) -> None:
        if len(self.pieces) < self._min_tokens:
            return
        found = self._watch.find(self._text, grown_by)
        if found is not None:
            self._trim(found.at)
            self.finish, self.stop_reason = "stop", found.string

    def _trim(self, end: int) -> None:
        """Cut the text, and the pieces with it, at character `end`."""
        start = len(self._text)
        self._text = self._text[:end]
        for i in range(len(self.pieces) - 1, -1, -1):
            start -= len(self.pieces[i])
            if start + len(self.pieces[i]) <= end:
                break
            self.pieces[i] = self.pieces[i][: max(0, end - start)]
