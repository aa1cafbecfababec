"""One draft in the making: what vLLM's outputs for one request add up to."""

from __future__ import annotations

from typing import Any

from strop.server.engine.chat.spelling import Spelling
from strop.server.engine.chat.types import Finish, StopReason, TokenEvent, TokenRequest, TokenResult, TopToken
from strop.server.engine.vllm.channel import unpack
from strop.strategies.kit.errors import EngineError

FINISH: dict[str, Finish] = {"stop": "stop", "length": "length", "repetition": "length", "error": "error"}


class GrowingDraft:
    """Feed it RequestOutputs. `generated` counts what the engine made, also tokens behind a stop string."""

    def __init__(self, index: int, request: TokenRequest, tokenizer: Any, enders: frozenset[int], stats: bool) -> None:
        self.index = index
        self.generated = self.cached = 0
        self.over = False  # the engine will send nothing more
        self.worked = 0.0  # seconds from the first step to the last token
        self._request, self._enders, self._stats = request, enders, stats
        self._spelling = Spelling(tokenizer, request.prompt_ids, request.stop, request.min_tokens)
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._entropies: list[float] = []
        self._certainties: list[float] = []
        self._top: list[tuple[TopToken, ...]] = []
        self._sent = 0

    @property
    def started(self) -> bool:
        """Whether the engine has read the prompt; it counts a prompt when the first token is there."""
        return self.generated > 0

    @property
    def finish(self) -> Finish | None:
        """How the draft ended; None while it runs."""
        return self._spelling.finish

    def take(self, output: Any) -> None:
        """New tokens (DELTA) or all of them (FINAL_ONLY). EngineError if a number that was asked for is missing."""
        completion = output.outputs[0]
        ids = list(completion.token_ids)
        self.generated += len(ids)
        self.cached = max(self.cached, output.num_cached_tokens or 0)
        self.over = output.finished
        self._time(output.metrics)
        reason = completion.finish_reason
        for position, token in enumerate(ids):
            if self.finish is not None:
                break
            self._push(token, completion.logprobs, position)
            if reason == "stop" and position == len(ids) - 1 and token in self._enders:
                self._spelling.push_last(self._reason(token))
            else:
                self._spelling.push(token)
        if self.over and reason != "abort":
            self.end(FINISH.get(reason or "", "error"))

    def end(self, finish: Finish) -> None:
        """Nothing more will come."""
        self._spelling.end(finish)

    def event(self) -> TokenEvent | None:
        """What is new and final since the last call; None if nothing is."""
        start, end = self._sent, max(self._sent, self._spelling.cleared())
        if start == end:
            return None
        self._sent = end
        return TokenEvent(self.index, **self._columns(start, end))

    def result(self) -> TokenResult:
        """All tokens so far."""
        reason = self._spelling.stop_reason
        return TokenResult(self.index, **self._columns(0, len(self._ids)), finish=self.finish, stop_reason=reason)

    def _reason(self, token: int) -> StopReason:
        return token if token in self._request.stop_token_ids else None

    def _push(self, token: int, logprobs: Any, position: int) -> None:
        self._ids.append(token)
        if logprobs is None:
            return
        start, end = logprobs.start_indices[position], logprobs.end_indices[position]
        self._logprobs.append(logprobs.logprobs[start])
        if self._request.top_logprobs:
            best = zip(logprobs.token_ids[start + 1 : end], logprobs.logprobs[start + 1 : end], strict=True)
            self._top.append(tuple(TopToken(i, value) for i, value in best))
        if self._stats:
            measured = unpack(logprobs.ranks[start])
            if measured.entropy is None or measured.certainty is None:
                raise EngineError("the engine could not measure the entropy of a token")
            self._entropies.append(measured.entropy)
            self._certainties.append(measured.certainty)

    def _time(self, metrics: Any) -> None:
        if metrics is not None and metrics.scheduled_ts and metrics.last_token_ts:
            self.worked = max(0.0, metrics.last_token_ts - metrics.scheduled_ts)

    def _columns(self, start: int, end: int) -> dict[str, Any]:
        return {
            "ids": tuple(self._ids[start:end]),
            "pieces": tuple(self._spelling.pieces[start:end]),
            "logprobs": tuple(self._logprobs[start:end]),
            "entropies": tuple(self._entropies[start:end]),
            "certainties": tuple(self._certainties[start:end]),
            "top": tuple(self._top[start:end]),
        }
