"""What an upstream server is known to speak beyond OpenAI's schema, and what it offers because of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from strop.server.engine.base import ModelInfo
from strop.strategies.kit.capabilities import Capabilities, Capability

Family = Literal["vllm", "strop", "openai"]

EXTRA_FIELDS = frozenset({"top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos"})
"""Sampling fields outside OpenAI's schema; sent only to upstreams that are known to take them."""

_SCHEMA = frozenset(
    {
        Capability.RAW_PROMPT,
        Capability.LOGPROBS,
        Capability.TOP_LOGPROBS,
        Capability.LOGIT_BIAS,
        Capability.PENALTIES,
        Capability.SEED,
        Capability.TOOLS,
        Capability.FORCED_TOOLS,
        Capability.JSON_OBJECT,
        Capability.JSON_SCHEMA,
    }
)
_SAMPLING = frozenset(
    {
        Capability.REPETITION_PENALTY,
        Capability.TOP_K,
        Capability.MIN_P,
        Capability.STOP_IDS,
        Capability.IGNORE_EOS,
    }
)

_NOT_IN_SCHEMA = "the field is not part of OpenAI's schema and this upstream is not known to take it"
_TOP_ONLY = "an OpenAI-compatible server reports at most the top logprobs of a token, not the whole distribution"
_NOT_OVER_HTTP = "the remote engine cannot reach into the upstream's decoding"
_REASONS: Mapping[Capability, str] = MappingProxyType(
    {capability: _NOT_IN_SCHEMA for capability in _SAMPLING}
    | {
        Capability.TOKENS: "the upstream does not report token ids",
        Capability.PREFIX: "the upstream is not known to continue an assistant turn",
        Capability.SCORE_TEXT: "the upstream does not report logprobs of a prompt",
        Capability.ENTROPY: _TOP_ONLY,
        Capability.CERTAINTY: _TOP_ONLY,
        Capability.HIDDEN_STATES: _NOT_OVER_HTTP,
        Capability.LOGIT_EDITS: _NOT_OVER_HTTP,
        Capability.PRM: "process rewards are not part of the OpenAI API",
        Capability.ADAPTERS: "the remote engine serves the one model it was given",
        Capability.PRIORITIES: "the remote engine does not send priorities",
    }
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to talk to one upstream.

    `n`: most drafts in one request. `length`: the field that limits a draft. `usage`: takes
    `stream_options.include_usage`; `running_usage`: also reports usage with every chunk (vLLM that of the chunk's
    draft). `token_ids`: returns them when asked. `tokenize`: has `/tokenize` and takes token ids as a prompt.
    `continues`: takes `continue_final_message`. `extras`: sampling fields outside OpenAI's schema. `developer`: knows
    that role.
    """

    family: Family = "openai"
    n: int = 1
    length: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    usage: bool = True
    running_usage: bool = False
    token_ids: bool = False
    tokenize: bool = False
    continues: bool = False
    extras: frozenset[str] = frozenset()
    developer: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """What asking an upstream at the start brought to light."""

    model: ModelInfo
    dialect: Dialect
    capabilities: Capabilities


def assumed(family: Family) -> Dialect:
    """What servers of a family speak when nothing was tried out."""
    match family:
        case "vllm":
            return Dialect(
                family,
                n=1024,
                running_usage=True,
                token_ids=True,
                tokenize=True,
                continues=True,
                extras=EXTRA_FIELDS,
                developer=False,
            )
        case "strop":
            return Dialect(family, n=16, running_usage=True, extras=EXTRA_FIELDS)
        case "openai":
            return Dialect(family)


def offered(dialect: Dialect) -> frozenset[Capability]:
    """The capabilities that follow from a dialect alone."""
    offers = _SCHEMA | (_SAMPLING if dialect.extras else frozenset())
    if dialect.token_ids:
        offers |= {Capability.TOKENS}
    if dialect.continues or dialect.tokenize:
        offers |= {Capability.PREFIX}
    if dialect.tokenize:
        offers |= {Capability.SCORE_TEXT}
    return offers


def described(offers: frozenset[Capability], found: Mapping[Capability, str]) -> Capabilities:
    """Capabilities with a reason for everything missing; what was `found` out replaces the general reason."""
    missing = {capability for capability in Capability if capability not in offers}
    reasons = {c: found.get(c) or _REASONS.get(c, "the upstream refused it when it was tried") for c in missing}
    return Capabilities(offers, reasons)


def overridden(found: Found, overrides: Mapping[Capability, bool]) -> Found:
    """What the operator says counts for more than what was found; switched on means that it is sent."""
    on, off = ({c for c, on in overrides.items() if on is wanted} for wanted in (True, False))
    dialect = replace(
        found.dialect,
        token_ids=found.dialect.token_ids or Capability.TOKENS in on,
        continues=found.dialect.continues or Capability.PREFIX in on,
        tokenize=found.dialect.tokenize or Capability.SCORE_TEXT in on,
        extras=found.dialect.extras | {str(c) for c in on & _SAMPLING},
    )
    reasons = dict(found.capabilities.reasons) | dict.fromkeys(off, "switched off by the operator")
    return replace(found, dialect=dialect, capabilities=described((found.capabilities.offers | on) - off, reasons))


def common(several: list[Capabilities]) -> Capabilities:
    """What all replicas offer; a reason is that of the first replica that lacks it."""
    offers = frozenset[Capability].intersection(*(c.offers for c in several))
    return described(offers, {c: why for one in reversed(several) for c, why in one.reasons.items()})
