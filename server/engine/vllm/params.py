"""From a token request to the arguments of vLLM's SamplingParams, one set per draft. No vLLM in here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from strop.server.engine.chat.types import Grammar, TokenRequest
from strop.server.engine.vllm.channel import OPT_IN
from strop.strategies.kit.span import mix

COLDEST = 0.01
"""vLLM's smallest temperature above 0."""


@dataclass(frozen=True, slots=True)
class Report:
    """What must come back with the tokens: `live` as they are made, their logprobs, their row statistics."""

    live: bool = False
    logprobs: bool = False
    stats: bool = False


def arguments(
    request: TokenRequest, index: int, context: int, eos_ids: tuple[int, ...], report: Report
) -> dict[str, Any]:
    """Keyword arguments for draft `index`. Text is made on our side, so vLLM neither detokenises nor sees stop strings.

    A draft's seed depends on (request seed, index) only.
    """
    room = context - len(request.prompt_ids)
    asked: dict[str, Any] = {
        "n": 1,
        "temperature": max(request.temperature, COLDEST) if request.temperature > 0 else 0.0,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "presence_penalty": float(request.presence_penalty),
        "frequency_penalty": float(request.frequency_penalty),
        "repetition_penalty": float(request.repetition_penalty),
        "max_tokens": min(request.max_tokens or room, room),
        "min_tokens": min(request.min_tokens, room),
        "stop_token_ids": list(stop_ids(request, eos_ids)),
        "ignore_eos": request.ignore_eos,
        "seed": None if request.seed is None else mix(request.seed, f"draft/{index}"),
        "logit_bias": dict(request.logit_bias) or None,
        "detokenize": False,
    }
    if report.logprobs or report.stats or request.top_logprobs:
        asked |= {"logprobs": request.top_logprobs, "flat_logprobs": True}
    if report.stats:
        asked["extra_args"] = {OPT_IN: 1}
    return asked


def stop_ids(request: TokenRequest, eos_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Everything that ends a draft: the client's ids, and all of the model's unless they are to be ignored."""
    return tuple(dict.fromkeys((*request.stop_token_ids, *(() if request.ignore_eos else eos_ids))))


def streams(request: TokenRequest, report: Report) -> bool:
    """Whether tokens must be looked at as they are made; otherwise one output at the end is cheaper."""
    return report.live or bool(request.stop)


def structured(grammar: Grammar) -> dict[str, Any]:
    """Keyword arguments of vLLM's StructuredOutputsParams. Free whitespace would let a small model loop in it."""
    match grammar.kind:
        case "json_schema":
            return {"json": json.dumps(grammar.schema), "disable_any_whitespace": True}
        case "json_object":
            return {"json_object": True, "disable_any_whitespace": True}
        case "regex":
            return {"regex": grammar.pattern}
        case "choice":
            return {"choice": list(grammar.choices)}


def weighing(top: int, cached: bool) -> dict[str, Any]:
    """Arguments for scoring a prompt. With `cached`, positions that the prefix cache holds come back as garbage, which
    is why nothing may be detokenised and why `weighing.tail` checks what it reads.
    """
    return {
        "n": 1,
        "temperature": 0.0,
        "max_tokens": 1,
        "prompt_logprobs": top,
        "flat_logprobs": True,
        "detokenize": False,
        "skip_reading_prefix_cache": not cached,
    }
