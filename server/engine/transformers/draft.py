"""One draft in the making: its tokens, its text, and whether it is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strop.server.engine.chat.spelling import Spelling
from strop.server.engine.chat.types import Finish, TokenEvent, TokenRequest, TokenResult
from strop.server.engine.transformers.grammar import Matcher
from strop.server.engine.transformers.sampling import RowSampling, Sampled


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
        self._spelling = Spelling(tokenizer, request.prompt_ids, request.stop, request.min_tokens)
        self._tokens: list[Sampled] = []
        self._sent = 0
        self.told = False  # whether the event with `finish` was taken

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
        if token.id in self._eos_ids or token.id in self._stop_ids:
            self._spelling.push_last(token.id if token.id in self._stop_ids else None)
            return
        self._spelling.push(token.id)
        if self.finish is None and self.matcher is not None:
            self.matcher.accept(token.id)
            if self.matcher.finished:
                self.end("stop")
        if self.finish is None and len(self._tokens) >= self._limit:
            self.end("length")

    @property
    def finish(self) -> Finish | None:
        """How it ended; None while it runs."""
        return self._spelling.finish

    def end(self, finish: Finish) -> None:
        """Close the draft; what was held back becomes final. Harmless when it is closed already."""
        self._spelling.end(finish)

    def event(self) -> TokenEvent | None:
        """What is new and final since the last call; None if nothing is."""
        start, end = self._sent, max(self._sent, self._spelling.cleared())
        if start == end and self.finish is None:
            return None
        self._sent, self.told = end, self.finish is not None
        return TokenEvent(
            self.index, **self._columns(start, end), finish=self.finish, stop_reason=self._spelling.stop_reason
        )

    def result(self) -> TokenResult:
        """All tokens so far."""
        columns = self._columns(0, len(self._tokens))
        return TokenResult(self.index, **columns, finish=self.finish, stop_reason=self._spelling.stop_reason)

    def _columns(self, start: int, end: int) -> dict[str, Any]:
        tokens = self._tokens[start:end]
        asked = self._request.top_logprobs > 0
        return {
            "ids": tuple(token.id for token in tokens),
            "pieces": tuple(self._spelling.pieces[start:end]),
            "logprobs": tuple(token.logprob for token in tokens),
            "entropies": tuple(token.entropy for token in tokens),
            "certainties": tuple(token.certainty for token in tokens),
            "top": tuple(token.top for token in tokens) if asked else (),
        }
