"""What the token engine is asked and what it answers. Ids in, ids out; all numbers in nats at temperature 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Finish = Literal["stop", "length", "abort", "error"]
StopReason = str | int | None

MAX_TOP_LOGPROBS = 20


class EngineError(Exception):
    """Root of what this engine raises.

    EngineError
        RequestFailed   one request went wrong while running (numbers, grammar); its neighbours did not notice
        EngineDead      the engine is not running: never started, stopped, or crashed

    A request that is wrong before it starts is a ValueError, raised by `submit`.
    """


class RequestFailed(EngineError):
    """This request failed inside the engine; partial drafts are on its handle."""


class EngineDead(EngineError):
    """The engine is not running. The message says why."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the text must match: exactly one of a JSON schema, any JSON object, a regex, or a fixed choice."""

    kind: Literal["json_schema", "json_object", "regex", "choice"]
    schema: dict[str, Any] | None = None
    pattern: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """Sample `n` continuations of `prompt_ids`.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. Presence and frequency penalties look at the
    generated tokens, the repetition penalty at prompt and generated tokens. `max_tokens` None: up to the context
    length. Draft i of a request with a `seed` depends on (prompt, seed, i) only; without one, a fresh seed is drawn.
    `min_tokens` holds back end-of-text, stop ids and stop strings, except where a grammar allows nothing else.
    """

    prompt_ids: tuple[int, ...]
    n: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    seed: int | None = None
    grammar: Grammar | None = None
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        for wrong, message in (
            (not self.prompt_ids, "prompt_ids is empty"),
            (self.n < 1, f"n is {self.n}, must be at least 1"),
            (self.max_tokens is not None and self.max_tokens < 1, f"max_tokens is {self.max_tokens}, must be >= 1"),
            (not 0 <= self.temperature < float("inf"), f"temperature is {self.temperature}, must be >= 0"),
            (not 0 < self.top_p <= 1, f"top_p is {self.top_p}, must be in (0, 1]"),
            (self.top_k < 0, f"top_k is {self.top_k}, must be >= 0"),
            (not 0 <= self.min_p <= 1, f"min_p is {self.min_p}, must be in [0, 1]"),
            (not self.repetition_penalty > 0, f"repetition_penalty is {self.repetition_penalty}, must be > 0"),
            (
                not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS,
                f"top_logprobs is {self.top_logprobs}, must be between 0 and {MAX_TOP_LOGPROBS}",
            ),
            (any(not s for s in self.stop), "stop holds an empty string"),
        ):
            if wrong:
                raise ValueError(message)


class TopToken(NamedTuple):
    """One of the likeliest tokens at a position."""

    id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """New tokens of draft `index`; columns are aligned, one entry per token.

    Tokens whose text could still turn out to be part of a stop string, or of an unfinished character, come later.
    `finish` is set on the last event of a draft, which may hold no tokens.
    """

    index: int
    ids: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    certainties: tuple[float, ...] = ()
    top: tuple[tuple[TopToken, ...], ...] = ()
    finish: Finish | None = None
    stop_reason: StopReason = None

    @property
    def text(self) -> str:
        """The text these tokens add."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class TokenResult:
    """One draft. `ids` are all tokens the model produced, the ones that ended it included (their pieces are "").

    `text` is the pieces joined. `finish` "stop" with `stop_reason` None is end-of-text (or a completed grammar), with a
    number a stop token, with a string a stop string. `top` is empty unless asked for. `finish` None: still running.
    """

    index: int
    ids: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    certainties: tuple[float, ...] = ()
    top: tuple[tuple[TopToken, ...], ...] = ()
    finish: Finish | None = None
    stop_reason: StopReason = None

    @property
    def text(self) -> str:
        """The draft's text."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request has cost so far. The prompt is counted once however many drafts share it.

    `cached_tokens` is the part of the prompt that was not recomputed. `seconds` runs from the first forward pass of the
    request to its end (or now), `queue_seconds` from submission to that first pass.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    queue_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SequenceScore:
    """Teacher-forced numbers of one continuation, one entry per token; `top` is empty unless asked for."""

    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    top: tuple[tuple[TopToken, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Scores:
    """Result of scoring: one entry per continuation, in order, and what it cost."""

    values: tuple[SequenceScore, ...]
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Logprobs of the asked token ids as the next token, in order; `entropy` is that of the whole row."""

    logprobs: tuple[float, ...]
    entropy: float
    usage: Usage = field(default_factory=Usage)
