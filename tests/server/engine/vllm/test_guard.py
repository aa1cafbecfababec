"""What is refused before vLLM sees it, and what it is given; no vLLM needed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from strop.server.engine.chat.types import Grammar, TokenRequest
from strop.server.engine.vllm import launch, params
from strop.server.engine.vllm.guard import Bounds, check, check_weighing
from strop.server.engine.vllm.instance import capabilities
from strop.server.engine.vllm.metrics import Merged, Series
from strop.server.engine.vllm.weighing import tail
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import BadRequest, ContextTooLong

BOUNDS = Bounds(context=100, vocabulary=1000)
ANY = st.one_of(st.floats(), st.integers(-(2**70), 2**70))


@given(
    st.dictionaries(st.sampled_from(["temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty"]), ANY)
)
def test_whatever_passes_has_numbers_within_vllms_own_limits(values: dict[str, Any]) -> None:
    try:
        request = TokenRequest((1, 2), **values)
        check(request, BOUNDS)
    except (ValueError, BadRequest):
        return
    assert all(math.isfinite(value) for value in values.values())
    assert 0 <= request.temperature <= 2
    assert 0 < request.top_p <= 1


@given(st.lists(st.integers(-10, 1010), min_size=1, max_size=120))
def test_prompts_that_pass_fit_and_have_embeddings(ids: list[int]) -> None:
    try:
        check(TokenRequest(tuple(ids)), BOUNDS)
    except (BadRequest, ContextTooLong):
        return
    assert len(ids) < 100
    assert all(0 <= i < 1000 for i in ids)


@pytest.mark.parametrize(
    ("param", "values"),
    [
        ("stop_token_ids", {"stop_token_ids": (1000,)}),
        ("logit_bias", {"logit_bias": ((-1, 0.0),)}),
        ("logit_bias", {"logit_bias": ((1, 101.0),)}),
        ("logit_bias", {"logit_bias": ((1, math.nan),)}),
        ("min_tokens", {"min_tokens": 9, "max_tokens": 8}),
        ("stop", {"stop": ("x" * 2000,)}),
        ("temperature", {"temperature": 2.5}),
        ("frequency_penalty", {"frequency_penalty": math.inf}),
        ("top_k", {"top_k": 2**40}),
        ("min_tokens", {"min_tokens": 2, "grammar": Grammar("json_object")}),
        ("ignore_eos", {"ignore_eos": True, "grammar": Grammar("json_object")}),
    ],
)
def test_a_refusal_names_the_parameter(param: str, values: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        check(TokenRequest((1,), **values), BOUNDS)
    assert refused.value.param == param


def test_texts_to_be_scored_are_checked_too() -> None:
    check_weighing((), (), 0, BOUNDS)
    for prefix, ids, top in (((1,), (1000,), 0), ((1,), (2,) * 99, 0), ((1,), (2,), 21)):
        with pytest.raises(BadRequest):
            check_weighing(prefix, ids, top, BOUNDS)


# ---------------------------------------------------------------------------------------------- arguments


def arguments(index: int = 0, *, stats: bool = False, **values: Any) -> dict[str, Any]:
    return params.arguments(TokenRequest((1, 2, 3), **values), index, 100, (7, 8), params.Report(stats=stats))


def test_every_draft_has_a_seed_of_its_own_that_does_not_depend_on_how_many_there_are() -> None:
    seeds = [arguments(index, seed=2**80, n=n)["seed"] for n in (3, 9) for index in range(3)]
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert arguments()["seed"] is None


def test_the_answer_gets_the_room_that_the_prompt_leaves() -> None:
    assert arguments()["max_tokens"] == 97
    assert arguments(max_tokens=500)["max_tokens"] == 97
    assert arguments(max_tokens=5, min_tokens=5)["min_tokens"] == 5


def test_all_ends_of_a_turn_end_it_unless_they_are_ignored() -> None:
    assert arguments(stop_token_ids=(8, 9))["stop_token_ids"] == [8, 9, 7]
    assert arguments(stop_token_ids=(9,), ignore_eos=True)["stop_token_ids"] == [9]


def test_vllm_never_detokenises_and_never_sees_a_stop_string() -> None:
    given = arguments(stop=("x",))
    assert given["detokenize"] is False
    assert "stop" not in given
    assert params.weighing(0, cached=True)["detokenize"] is False


def test_statistics_are_asked_for_only_when_they_are_wanted() -> None:
    assert "extra_args" not in arguments()
    assert "logprobs" not in arguments()
    given = arguments(stats=True)
    assert (given["logprobs"], given["extra_args"]) == (0, {"strop_stats": 1})
    assert arguments(top_logprobs=4)["logprobs"] == 4


def test_tokens_are_streamed_only_when_somebody_looks_at_them() -> None:
    assert not params.streams(TokenRequest((1,)), params.Report())
    assert params.streams(TokenRequest((1,)), params.Report(live=True))
    assert params.streams(TokenRequest((1,), stop=("x",)), params.Report())


def test_a_schema_leaves_no_room_for_endless_whitespace() -> None:
    given = params.structured(Grammar("json_schema", schema={"type": "object"}))
    assert json.loads(given["json"]) == {"type": "object"}
    assert given["disable_any_whitespace"] is True


# ------------------------------------------------------------------------------------------------ scoring


@dataclass
class Flat:
    """vLLM's FlatLogprobs: one position after the other, each with one or more tokens."""

    token_ids: list[int]
    logprobs: list[float]
    start_indices: list[int] = field(default_factory=list)
    end_indices: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start_indices = list(range(len(self.token_ids)))
        self.end_indices = [start + 1 for start in self.start_indices]

    def __len__(self) -> int:
        return len(self.start_indices)


def test_the_end_of_prompt_logprobs_is_read_where_it_is_valid() -> None:
    flat = Flat([-738253984, 11, 12, 13], [9e9, -0.1, -0.2, -math.inf])
    found = tail(flat, (12, 13), prefix=2, cached=1)
    assert found is not None
    assert found.logprobs == (-0.2, -9999.0)
    assert tail(Flat([12, 13], [-0.2, -0.3]), (12, 13), prefix=50, cached=32) is not None


def test_garbage_of_cached_positions_is_never_taken_for_numbers() -> None:
    flat = Flat([11, 12, 13], [-0.1, -0.2, -0.3])
    assert tail(flat, (12, 13), prefix=1, cached=1) is None
    assert tail(flat, (99, 13), prefix=2, cached=0) is None
    assert tail(Flat([13], [-0.3]), (12, 13), prefix=2, cached=0) is None
    assert tail(None, (12,), prefix=2, cached=0) is None


# ----------------------------------------------------------------------------------------------- starting


@pytest.mark.parametrize("version", ["0.32.0", "0.32.9", "0.32.1+cpu", "0.32.0rc2"])
def test_the_versions_the_hooks_were_written_for_are_taken(version: str) -> None:
    launch.check_version(version)


@pytest.mark.parametrize("version", ["0.31.4", "0.33.0", "1.0.0", "dev"])
def test_another_version_is_refused_with_advice(version: str) -> None:
    with pytest.raises(ImportError, match=r"vllm>=0.32,<0.33.*--engine remote"):
        launch.check_version(version)


@pytest.mark.parametrize("flag", ["--model", "--skip_tokenizer_init", "--runner=pooling", "--logprobs-mode"])
def test_flags_that_would_make_another_engine_of_it_are_refused(flag: str) -> None:
    with pytest.raises(ValueError, match="cannot be passed on"):
        launch.check_flags(["--max-num-seqs", "4", flag])


def test_a_machine_without_gpu_gets_its_own_defaults() -> None:
    wanted = launch.Launch("m")
    small = launch.defaults(wanted, cpu=True, memory=8 * launch.GIB, environ={}.get)
    assert (small["dtype"], small["enforce_eager"], small["block_size"]) == ("float32", True, 32)
    assert small["kv_cache_memory_bytes"] == 2 * launch.GIB
    told = launch.defaults(wanted, cpu=True, memory=8 * launch.GIB, environ={"VLLM_CPU_KVCACHE_SPACE": "1"}.get)
    assert "kv_cache_memory_bytes" not in told
    gpu = launch.defaults(wanted, cpu=False, memory=8 * launch.GIB, environ={}.get)
    assert gpu["dtype"] == "auto"
    assert not {"enforce_eager", "block_size", "kv_cache_memory_bytes", "max_num_seqs"} & set(gpu)


def offered(**changed: Any) -> Any:
    usual = {"hooked": True, "why": "", "speculative": False, "cpu": True, "chunked": True, "ranked": False}
    return capabilities(**{**usual, **changed})


def test_what_cannot_be_offered_has_a_reason() -> None:
    assert offered().offers >= {Capability.ENTROPY, Capability.SEED, Capability.FORCED_TOOLS}
    assert "speculative" in offered(speculative=True).why_not(Capability.ENTROPY)
    unhooked = offered(hooked=False, why="TypeError: no sample")
    assert "no sample" in unhooked.why_not(Capability.CERTAINTY)
    assert Capability.SEED not in unhooked.offers
    assert Capability.SEED in offered(hooked=False, chunked=False).offers
    assert Capability.SEED in offered(hooked=False, cpu=False).offers
    assert Capability.PRIORITIES in offered(ranked=True).offers
    for found in (offered(), unhooked):
        assert set(found.reasons) == set(Capability) - found.offers


# ------------------------------------------------------------------------------------------------ metrics


def test_two_engines_share_families_and_keep_their_series() -> None:
    parts = []
    for name in ("policy", "reward"):
        series = Series()
        series.registry = CollectorRegistry()
        Counter("vllm:tokens", "tokens", ("model_name",), registry=series.registry).labels(name).inc()
        parts.append(series)
    [family] = Merged([*parts, Series()]).collect()
    totals = {s.labels["model_name"]: s.value for s in family.samples if s.name.endswith("_total")}
    assert totals == {"policy": 1.0, "reward": 1.0}
