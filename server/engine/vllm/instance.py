"""One booted vLLM: the AsyncLLM, what is known about its model, and what it can do."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from strop.server.engine.chat.reading import HermesReader, Reader
from strop.server.engine.chat.speaker import Defaults
from strop.server.engine.chat.translate import Translator
from strop.server.engine.vllm import launch, metrics
from strop.server.engine.vllm.guard import Bounds
from strop.server.engine.vllm.parsers import VllmReader
from strop.strategies.kit.capabilities import Capabilities, Capability

log = logging.getLogger(__name__)

ALWAYS_MISSING = {
    Capability.HIDDEN_STATES: "hidden states do not leave vLLM's worker",
    Capability.LOGIT_EDITS: "this version does not edit logits inside vLLM",
    Capability.PRM: "no process reward model is loaded",
    Capability.ADAPTERS: "this version loads no adapters into vLLM",
}
MEASURED = (Capability.ENTROPY, Capability.CERTAINTY)


@dataclass(frozen=True, slots=True)
class Tongue:
    """The tokenizer of the model, as the shared code wants it (`chat.speaker.Speaker`)."""

    tokenizer: Any
    has_chat_template: bool
    eos_ids: tuple[int, ...]


@dataclass(frozen=True)
class Instance:
    """Ready to be asked. `llm` is vLLM's AsyncLLM."""

    llm: Any
    tongue: Tongue
    translator: Translator
    bounds: Bounds
    capabilities: Capabilities
    ranked: bool  # the scheduler heeds priorities
    thinks: bool = False  # a parser takes the reasoning out of the text, which takes the whole text

    @property
    def dead(self) -> bool:
        """Whether the engine process, or the task that reads from it, is gone."""
        return bool(self.llm.errored)

    async def close(self) -> None:
        """End vLLM's processes. Takes seconds."""
        await anyio.to_thread.run_sync(partial(self.llm.shutdown, timeout=5))
        context = self.llm.engine_core.resources.ctx
        with anyio.move_on_after(5):  # vLLM closes its sockets but leaves their context, with two threads, behind
            await anyio.to_thread.run_sync(partial(context.destroy, linger=0), abandon_on_cancel=True)


async def boot(wanted: launch.Launch, series: metrics.Series, totals: metrics.Totals) -> Instance:
    """Start vLLM in processes of its own: half a minute for a small model. Raises whatever vLLM raises."""
    llm, registry, flags = await anyio.to_thread.run_sync(_start, wanted, totals)
    try:
        instance = _described(llm, await _install(llm), flags)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(llm.shutdown)
        raise
    series.registry = registry
    return instance


async def _install(llm: Any) -> list[Mapping[str, Any]]:
    """Put the hooks into every worker; their reports."""
    try:
        found = await llm.collective_rpc("strop_install", args=(os.getpid(),))
    except Exception:  # boundary: a worker without our extension serves, with fewer capabilities
        log.exception("vLLM runs without strop's extension")
        return []
    return [one for one in found if isinstance(one, Mapping)]


def _start(wanted: launch.Launch, totals: metrics.Totals) -> tuple[Any, Any, launch.Parsed]:
    flags = launch.parsed(wanted)
    from prometheus_client import CollectorRegistry
    from vllm.v1.engine.async_llm import AsyncLLM

    registry = CollectorRegistry()
    llm = AsyncLLM.from_engine_args(flags.engine, stat_loggers=metrics.stat_loggers(registry, totals))
    return llm, registry, flags


def _described(llm: Any, reports: list[Mapping[str, Any]], flags: launch.Parsed) -> Instance:
    config = llm.vllm_config
    model = config.model_config
    tokenizer = llm.get_tokenizer()
    tongue = Tongue(tokenizer, bool(getattr(tokenizer, "chat_template", None)), eos_ids(model, tokenizer))
    bounds = Bounds(int(model.max_model_len), int(model.get_vocab_size()), _most_logprobs(model.max_logprobs))
    usual = _defaults(model.get_diff_sampling_param())
    offered = capabilities(
        hooked=bool(reports) and all(report["installed"] for report in reports),
        why=next((str(report["why"]) for report in reports if report["why"]), "vLLM runs without strop's extension"),
        speculative=config.speculative_config is not None,
        cpu=config.device_config.device_type == "cpu",
        chunked=bool(config.scheduler_config.enable_chunked_prefill),
        ranked=config.scheduler_config.policy == "priority",
    )
    reader: Reader = HermesReader()
    if flags.tool_parser or flags.reasoning_parser:
        reader = VllmReader(tokenizer, model, tongue.eos_ids, flags.tool_parser, flags.reasoning_parser)
    translator = Translator(tongue, bounds.context, usual, reader)
    ranked = config.scheduler_config.policy == "priority"
    return Instance(llm, tongue, translator, bounds, offered, ranked, bool(flags.reasoning_parser))


def capabilities(*, hooked: bool, why: str, speculative: bool, cpu: bool, chunked: bool, ranked: bool) -> Capabilities:
    """Everything but what this configuration cannot do, with the reasons."""
    missing = dict(ALWAYS_MISSING)
    if not ranked:
        missing[Capability.PRIORITIES] = "start vLLM with --scheduling-policy priority"
    if speculative:
        missing |= dict.fromkeys(MEASURED, "not measured under speculative decoding")
    elif not hooked:
        missing |= dict.fromkeys(MEASURED, f"the hooks are not installed: {why}")
    if cpu and chunked and not hooked:
        missing[Capability.SEED] = (
            "without strop's hooks, a seed can end vLLM on a CPU; --no-enable-chunked-prefill helps"
        )
    return Capabilities(frozenset(Capability) - frozenset(missing), missing)


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """All ids that end a turn: of the generation config, the model's config and the tokenizer."""
    generation = model.try_get_generation_config()
    config = getattr(model, "hf_text_config", None)
    found: set[int] = set()
    for ids in (
        generation.get("eos_token_id"),
        getattr(config, "eos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    ):
        found.update([ids] if isinstance(ids, int) else ids or [])
    return tuple(sorted(found))


def _defaults(recommended: Mapping[str, Any]) -> Defaults:
    """The sampling values that the model's generation config sets."""
    known = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    given = {name: value for name, value in recommended.items() if name in known and value is not None}
    return Defaults(**given)


def _most_logprobs(configured: int) -> int:
    return 20 if configured < 0 else min(20, configured)
