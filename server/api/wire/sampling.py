"""What chat and text completions have in common: how to sample, how to stream, and the `strop` object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from strop.server.api.wire.invalid import Wire, whole
from strop.server.api.wire.strop import StropOptions
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.types import Sampling

INT32 = 2**31 - 1
INT64 = 2**63 - 1

StopText = Annotated[str, Field(min_length=1, max_length=1024)]
Natural = Annotated[int, Field(ge=0, le=INT32), BeforeValidator(whole)]
Count = Annotated[int, Field(ge=1, le=INT32), BeforeValidator(whole)]

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "structured_outputs": (None,),
    "use_beam_search": (None, False),
    "prompt_logprobs": (None,),
    "allowed_token_ids": (None,),
    "bad_words": (None, []),
    "logits_processors": (None, []),
    "truncate_prompt_tokens": (None,),
    "return_tokens_as_token_ids": (None, False),
}
"""Fields that no endpoint honours and that would change the answer, with the values that mean "not asked for"."""


class StreamOptions(Wire):
    """What to add to a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingRequest(Wire):
    """Fields of every request for completions. Unknown fields are tolerated; null always means "not given"."""

    model: Annotated[str, Field(min_length=1, max_length=512)]

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: Annotated[int, Field(ge=-1, le=INT32), BeforeValidator(whole)] | None = Field(
        None, description="0 and -1: off"
    )
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    min_tokens: Natural | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[Natural], Field(max_length=128, fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    seed: Annotated[int, Field(ge=-INT64 - 1, le=INT64), BeforeValidator(whole)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1024, json_schema_extra={"additionalProperties": False}),
        ]
        | None
    ) = None
    n: Annotated[int, Field(ge=1, le=128), BeforeValidator(whole)] | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    user: str | None = None
    strop: StropOptions | None = None


def refuse(raw: Mapping[str, Any], refused: Mapping[str, tuple[object, ...]]) -> None:
    """Raise for fields that cannot be honoured and would change the answer; silence would be a lie."""
    for name in refused.keys() & raw.keys():
        if not any(raw[name] is neutral or raw[name] == neutral for neutral in refused[name]):
            raise BadRequest(f"'{name}' is not supported", param=name, code="unsupported_parameter")


def check_choices(n: int | None, most: int) -> None:
    """Raise if more choices are wanted than the server returns."""
    if n is not None and n > most:
        raise BadRequest(f"n is {n}, but this server returns at most {most} choices", param="n")


def sampling_of(wire: SamplingRequest, longest: int | None, top_logprobs: int | None) -> Sampling:
    """The kit's sampling; `longest` is the length of an answer, `top_logprobs` is None without logprobs."""
    shortest = wire.min_tokens or 0
    if longest is not None and shortest > longest:
        raise BadRequest(f"min_tokens is {shortest}, more than the limit of {longest}", param="min_tokens")
    return Sampling(
        temperature=wire.temperature,
        top_p=wire.top_p,
        top_k=wire.top_k if wire.top_k and wire.top_k > 0 else None,
        min_p=wire.min_p or None,
        presence_penalty=wire.presence_penalty or 0.0,
        frequency_penalty=wire.frequency_penalty or 0.0,
        repetition_penalty=None if wire.repetition_penalty == 1 else wire.repetition_penalty,
        max_tokens=longest,
        min_tokens=shortest,
        stop=(wire.stop,) if isinstance(wire.stop, str) else tuple(wire.stop or ()),
        stop_token_ids=tuple(wire.stop_token_ids or ()),
        ignore_eos=bool(wire.ignore_eos),
        seed=wire.seed,
        logit_bias=tuple((int(token), bias) for token, bias in (wire.logit_bias or {}).items() if bias),
        logprobs=top_logprobs is not None,
        top_logprobs=top_logprobs or 0,
    )
