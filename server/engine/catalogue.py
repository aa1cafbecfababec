"""Which engine a setting means. Engines are imported only when chosen, so the base install needs none of theirs."""

from __future__ import annotations

from strop.server.engine.base import Engine
from strop.server.layers import POLICY, REWARD
from strop.server.settings import Settings


def engines(settings: Settings) -> dict[str, Engine]:
    """Role to engine: the policy; the judge and the reward model if there are models for them."""
    chosen = {POLICY: policy(settings)}
    if settings.judge:
        from strop.server.engine.remote import RemoteEngine

        chosen["judge"] = RemoteEngine([settings.judge], model=settings.judge_model)
    if settings.reward_model:
        from strop.server.scoring.reward import RewardModel

        chosen[REWARD] = RewardModel(
            settings.reward_model, format=settings.reward_format, dtype=settings.dtype, device=settings.device
        )
    return chosen


def policy(settings: Settings) -> Engine:
    """The engine that `settings.engine` names."""
    match settings.engine:
        case "simulated":
            from strop.server.engine.simulated import SimulatedEngine

            return SimulatedEngine(**settings.simulation.model_dump(), name=settings.model or "simulated")
        case "remote":
            from strop.server.engine.remote import RemoteEngine

            key = settings.upstream.api_key
            return RemoteEngine(
                settings.upstream.urls,
                model=settings.model,
                api_key=key.get_secret_value() if key else None,
                timeout=settings.upstream.timeout,
            )
        case "transformers":
            from strop.server.engine.transformers.embedded import TransformersEngine

            return TransformersEngine(
                settings.model,
                dtype=settings.dtype,
                device=settings.device,
                max_model_len=settings.max_model_len,
                max_rows=settings.max_num_seqs,
            )
        case "vllm":
            from strop.server.engine.vllm.engine import VllmEngine

            if settings.model is None:
                raise ValueError("the vllm engine needs a model: strop serve MODEL --engine vllm")
            return VllmEngine(
                settings.model,
                dtype=settings.dtype,
                max_model_len=settings.max_model_len,
                max_num_seqs=settings.max_num_seqs if "max_num_seqs" in settings.model_fields_set else None,
                flags=settings.vllm_flags,
            )
