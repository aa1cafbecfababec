"""One draft in the making: its tokens, its text, and whether it is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strop.server.engine.chat.detokenize import Detokenizer, StopWatch
from strop.server.engine.transformers.grammar import Matcher
from strop.server.engine.transformers.sampling import RowSampling, Sampled
from strop.server.engine.chat.types import Finish, StopReason, TokenEvent, TokenRequest, TokenResult


class DraftState:
    """Written by the engine's thread only; readers of another thread go through `job.Job`, which locks."""

    def __init__(
        self,
        index: int,
        request: TokenRequest,
        sampling: RowSampling,
        tokenizer: Any,
        eos_ids: Sequence[int],
        limit: int,
        matcher: Matcher | None = None,
    ) -> None:
        self.index, self.sampling, self.matcher = index, sampling, matcher
        self._request, self._limit = request, limit
        self._eos_ids = frozenset() if request.ignore_eos else frozenset(eos_ids)
        self._stop_ids = frozenset(request.stop_token_ids)
        self._detokenizer = Detokenizer(tokenizer, request.prompt_ids)
        self._watch = StopWatch(request.stop)
        self._tokens: list[Sampled] = []
        self._pieces: list[str] = []
        self._text = ""
        self._spelled = 0  # the latest token that has a text of its own
        self._sent = 0
        self.told = False  # whether the event with `finish` was taken
        self.finish: Finish | None = None
        self.stop_reason: StopReason = None

    @property
    def ids(self) -> list[int]:
        """Tokens so far."""
        return [token.id for token in self._tokens]

    def __len__(self) -> int:
        return len(self._tokens)

    def prepare(self) -> None:
        """Before sampling: ask the grammar what may come."""
        if self.matcher is not None:
            self.sampling.allowed = self.matcher.allowed()

    def push(self, token: Sampled) -> None:
        """Take the next token; sets `finish` when it is the last."""
        self._tokens.append(token)
        self.sampling.remember(token.id)
        ends = token.id in self._eos_ids or token.id in self._stop_ids
        if ends:
            self._pieces.append("")
            self.end("stop", token.id if token.id in self._stop_ids else None)
            return
        self._spell(token.id)
        if self.finish is None and self.matcher is not None:
            self.matcher.accept(token.id)
            if self.matcher.finished:
                self.end("stop")
        if self.finish is None and len(self._tokens) >= self._limit:
            self.end("length")

    def _spell(self, token: int) -> None:
        piece = self._detokenizer.push(token)
        self._pieces.append(piece)
        self._spelled = len(self._pieces) - 1
        self._text += piece
        self._stop_string(len(piece))

    def _stop_string(self, grown_by: int) -> None:
        if len(self._tokens) < self._request.min_tokens:
            return
        found = self._watch.find(self._text, grown_by)
        if found is not None:
            self._trim(found.at)
            self.finish, self.stop_reason = "stop", found.string

    def end(self, finish: Finish, reason: StopReason = None) -> None:
        """Close the draft; what was held back becomes final. Harmless when it is closed already."""
        if self.finish is not None:
            return
        self.finish, self.stop_reason = finish, reason
        rest = self._detokenizer.flush()
        if rest:
            self._pieces[self._spelled] += rest
            self._text += rest
            self._stop_string(len(rest))

    def _trim(self, end: int) -> None:
        """Cut the text, and the pieces with it, at character `end`."""
        start = len(self._text)
        self._text = self._text[:end]
        for i in range(len(self._pieces) - 1, -1, -1):
            start -= len(self._pieces[i])
            if start + len(self._pieces[i]) <= end:
                break
            self._pieces[i] = self._pieces[i][: max(0, end - start)]

    def _cleared(self) -> int:
        """How many tokens have a text that nothing can change any more."""
        if self.finish is not None:
            return len(self._tokens)
        count, held = len(self._tokens), self._watch.pending(self._text)
        while held > 0 and count > 0:
            count -= 1
            held -= len(self._pieces[count])
        return max(self._sent, min(count, len(self._tokens) - self._detokenizer.waiting))

    def event(self) -> TokenEvent | None:
        """What is new and final since the last call; None if nothing is."""
        start, end = self._sent, self._cleared()
        if start == end and self.finish is None:
            return None
        self._sent, self.told = end, self.finish is not None
        return TokenEvent(self.index, **self._columns(start, end), finish=self.finish, stop_reason=self.stop_reason)

    def result(self) -> TokenResult:
        """All tokens so far."""
        columns = self._columns(0, len(self._tokens))
        return TokenResult(self.index, **columns, finish=self.finish, stop_reason=self.stop_reason)

    def _columns(self, start: int, end: int) -> dict[str, Any]:
        tokens = self._tokens[start:end]
        asked = self._request.top_logprobs > 0
        return {
            "ids": tuple(token.id for token in tokens),
            "pieces": tuple(self._pieces[start:end]),
            "logprobs": tuple(token.logprob for token in tokens),
            "entropies": tuple(token.entropy for token in tokens),
            "certainties": tuple(token.certainty for token in tokens),
            "top": tuple(token.top for token in tokens) if asked else (),
        }
