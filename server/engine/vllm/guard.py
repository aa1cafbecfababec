"""What must not reach vLLM. vLLM checks much of this itself, but an error inside its core ends every request, so
nothing is left to luck: a request that passes here has parameters the engine is known to survive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from strop.server.engine.chat.types import TokenRequest
from strop.strategies.kit.errors import BadRequest, ContextTooLong

MAX_DRAFTS = 1024  # of one op
MAX_STOP_STRINGS = 64
MAX_STOP_CHARACTERS = 1024
MAX_STOP_IDS = 1024
MAX_BIASES = 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the running engine can take: context in tokens, size of the vocabulary, most top logprobs."""

    context: int
    vocabulary: int
    top_logprobs: int = 20


def check(request: TokenRequest, bounds: Bounds) -> None:
    """`BadRequest` naming the parameter, or `ContextTooLong`; nothing if vLLM may have the request."""
    check_ids(request.prompt_ids, bounds)
    for param, message in _wrong(request, bounds):
        raise BadRequest(message, param=param)
    if request.grammar is not None:
        _check_ends(request)


def check_ids(ids: tuple[int, ...], bounds: Bounds, more: int = 1) -> None:
    """Refuse ids that the model has no embedding for, an empty prompt, and one with no room for `more` tokens."""
    if not ids:
        raise BadRequest("the prompt is empty", param="prompt")
    if len(ids) + more > bounds.context:
        raise ContextTooLong(len(ids) + more, bounds.context)
    if not all(_id(i, bounds) for i in ids):
        raise BadRequest(f"token ids must be between 0 and {bounds.vocabulary - 1}", param="prompt")


def check_weighing(prefix: tuple[int, ...], ids: tuple[int, ...], top: int, bounds: Bounds) -> None:
    """The same for a text that is to be scored. An empty text needs no engine."""
    if ids:
        check_ids(prefix + ids, bounds)
    if not 0 <= top <= bounds.top_logprobs:
        raise BadRequest(f"at most {bounds.top_logprobs} alternatives are told per token", param="top_logprobs")


def _id(value: object, bounds: Bounds) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < bounds.vocabulary


def _within(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high


def _wrong(request: TokenRequest, bounds: Bounds) -> Iterator[tuple[str, str]]:
    """(parameter, message) for each thing that is not acceptable."""
    yield from _wrong_numbers(request, bounds)
    yield from _wrong_tokens(request, bounds)
    if len(request.stop) > MAX_STOP_STRINGS or any(not 0 < len(s) <= MAX_STOP_CHARACTERS for s in request.stop):
        yield "stop", f"at most {MAX_STOP_STRINGS} stop strings of 1 to {MAX_STOP_CHARACTERS} characters"


def _wrong_numbers(r: TokenRequest, bounds: Bounds) -> Iterator[tuple[str, str]]:
    ranges: list[tuple[str, float, float, float]] = [
        ("n", r.n, 1, MAX_DRAFTS),
        ("temperature", r.temperature, 0.0, 2.0),
        ("min_p", r.min_p, 0.0, 1.0),
        ("presence_penalty", r.presence_penalty, -2.0, 2.0),
        ("frequency_penalty", r.frequency_penalty, -2.0, 2.0),
        ("repetition_penalty", r.repetition_penalty, 0.01, 100.0),
        ("top_k", r.top_k, 0, 2**31 - 1),
        ("top_logprobs", r.top_logprobs, 0, bounds.top_logprobs),
        ("max_tokens", r.max_tokens if r.max_tokens is not None else 1, 1, bounds.context),
        ("min_tokens", r.min_tokens, 0, r.max_tokens if r.max_tokens is not None else bounds.context),
    ]
    for param, value, low, high in ranges:
        if not _within(value, low, high):
            yield param, f"{param} is {value}, this engine takes {low:g} to {high:g}"
    if not (math.isfinite(r.top_p) and 0.0 < r.top_p <= 1.0):
        yield "top_p", f"top_p is {r.top_p}, this engine takes more than 0, up to 1"


def _wrong_tokens(r: TokenRequest, bounds: Bounds) -> Iterator[tuple[str, str]]:
    outside = f"must be token ids between 0 and {bounds.vocabulary - 1}"
    if len(r.stop_token_ids) > MAX_STOP_IDS or not all(_id(i, bounds) for i in r.stop_token_ids):
        yield "stop_token_ids", f"stop_token_ids {outside}, at most {MAX_STOP_IDS}"
    if len(r.logit_bias) > MAX_BIASES or not all(_id(i, bounds) for i, _ in r.logit_bias):
        yield "logit_bias", f"the keys of logit_bias {outside}, at most {MAX_BIASES}"
    if not all(_within(bias, -100.0, 100.0) for _, bias in r.logit_bias):
        yield "logit_bias", "the values of logit_bias must be between -100 and 100"


def _check_ends(request: TokenRequest) -> None:
    """Where a grammar leaves only the end of the text, what forbids the end would leave nothing at all."""
    if request.min_tokens:
        raise BadRequest("min_tokens cannot be combined with a format or a forced tool here", param="min_tokens")
    if request.ignore_eos:
        raise BadRequest("ignore_eos cannot be combined with a format or a forced tool", param="ignore_eos")
