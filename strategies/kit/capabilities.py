"""What an engine may be able to do, and what an op needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from strop.strategies.kit.errors import MissingCapability
from strop.strategies.kit.ops import Generate, Logprobs, Op, Steps


class Capability(StrEnum):
    """One word per thing that engines differ in."""

    TOKENS = "tokens"  # drafts report token ids and texts
    PREFIX = "prefix"  # continue an assistant turn (token-exact together with TOKENS)
    RAW_PROMPT = "raw_prompt"  # text or token ids without a chat template
    LOGPROBS = "logprobs"  # logprobs of generated tokens
    TOP_LOGPROBS = "top_logprobs"
    ENTROPY = "entropy"  # full-vocabulary entropy of every generated token
    CERTAINTY = "certainty"  # full-vocabulary self-certainty of every generated token
    SCORE_TEXT = "score_text"  # logprobs of given text
    LOGIT_BIAS = "logit_bias"
    PENALTIES = "penalties"  # presence and frequency
    REPETITION_PENALTY = "repetition_penalty"
    TOP_K = "top_k"
    MIN_P = "min_p"
    SEED = "seed"
    STOP_IDS = "stop_token_ids"
    IGNORE_EOS = "ignore_eos"
    TOOLS = "tools"
    FORCED_TOOLS = "forced_tools"  # tool_choice required or a named function
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    HIDDEN_STATES = "hidden_states"
    LOGIT_EDITS = "logit_edits"
    PRM = "prm"
    ADAPTERS = "adapters"
    PRIORITIES = "priorities"


@dataclass(frozen=True)
class Capabilities:
    """What one engine offers, and why it lacks what it lacks."""

    offers: frozenset[Capability]
    reasons: Mapping[Capability, str] = field(default_factory=dict)

    def why_not(self, capability: Capability) -> str:
        """The engine's reason, or a plain sentence when it gave none."""
        return self.reasons.get(capability, "this engine does not implement it")

    def require(self, needed: Mapping[Capability, str | None]) -> None:
        """Raise `MissingCapability` for the first needed capability that is not offered.

        `needed` maps a capability to the request parameter that asks for it, if there is one.
        """
        for capability, param in needed.items():
            if capability not in self.offers:
                raise MissingCapability(capability, self.why_not(capability), param=param)


def needs(op: Op) -> dict[Capability, str | None]:
    """The capabilities `op` cannot do without, with the request parameter behind each."""
    match op:
        case Generate():
            return _generate_needs(op)
        case Logprobs(top=top):
            return {Capability.SCORE_TEXT: None} | ({Capability.TOP_LOGPROBS: "logprobs"} if top else {})
        case Steps(by="prm"):
            return {Capability.PRM: None}
        case _:
            return {}


def _generate_needs(op: Generate) -> dict[Capability, str | None]:
    chat, sampling = op.chat, op.chat.sampling
    asked: list[tuple[Capability, object, str | None]] = [
        (Capability.PREFIX, op.prefix, None),
        (Capability.RAW_PROMPT, chat.prompt is not None, "prompt"),
        (Capability.TOP_LOGPROBS, sampling.top_logprobs, "top_logprobs"),
        (Capability.LOGIT_BIAS, sampling.logit_bias, "logit_bias"),
        (Capability.PENALTIES, sampling.presence_penalty, "presence_penalty"),
        (Capability.PENALTIES, sampling.frequency_penalty, "frequency_penalty"),
        (Capability.REPETITION_PENALTY, sampling.repetition_penalty is not None, "repetition_penalty"),
        (Capability.TOP_K, sampling.top_k is not None, "top_k"),
        (Capability.MIN_P, sampling.min_p is not None, "min_p"),
        (Capability.SEED, sampling.seed is not None, "seed"),
        (Capability.STOP_IDS, sampling.stop_token_ids, "stop_token_ids"),
        (Capability.IGNORE_EOS, sampling.ignore_eos, "ignore_eos"),
        (Capability.TOOLS, chat.tools, "tools"),
        (Capability.FORCED_TOOLS, chat.tool_choice.mode in ("required", "named"), "tool_choice"),
        (Capability.JSON_OBJECT, chat.format.kind == "json_object", "response_format"),
        (Capability.JSON_SCHEMA, chat.format.kind == "json_schema", "response_format"),
    ]
    needed = {capability: param for capability, wanted, param in asked if wanted}
    return needed | {Capability(wanted): None for wanted in op.want}
