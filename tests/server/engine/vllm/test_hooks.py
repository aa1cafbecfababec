"""The hooks in vLLM's worker, on runners that only look like vLLM's."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the hooks work on tensors")

from strop.server.engine.vllm.channel import OPT_IN, unpack  # noqa: E402
from strop.server.engine.vllm.extension import StropExtension, ancestors  # noqa: E402
from strop.server.engine.vllm.hook_v1 import V1Hook  # noqa: E402
from strop.server.engine.vllm.hook_v2 import V2Hook  # noqa: E402

ASKS = SimpleNamespace(extra_args={OPT_IN: 1})
ASKS_NOT = SimpleNamespace(extra_args=None)


class CpuGenerator:
    """A random generator that cannot be wound back, as on a CPU."""

    drawn = 0

    def set_offset(self, offset: int) -> None:
        raise RuntimeError("CPU Generator does not use offset")


class RunnerV1:
    """The parts of vLLM's V1 runner that the hook touches."""

    def __init__(self) -> None:
        self.execute_model_state: Any = None
        self.requests = {
            "a": SimpleNamespace(sampling_params=ASKS),
            "b": SimpleNamespace(sampling_params=ASKS_NOT),
            "c": SimpleNamespace(sampling_params=ASKS),
        }
        self.input_batch = SimpleNamespace(req_ids=["a", "b", "c"], generators={})
        self.discard_request_mask = SimpleNamespace(np=[False, False, False])
        self.generators_seen: list[int] = []

    def execute_model(self, scheduler_output: Any, intermediate_tensors: Any = None) -> None:
        logits = torch.zeros(3, 16)
        self.execute_model_state = SimpleNamespace(logits=logits, spec_decode_metadata=scheduler_output)

    def sample_tokens(self, grammar_output: Any) -> Any:
        self.execute_model_state.logits[:, 3:] = -torch.inf  # the grammar's mask
        self.generators_seen = sorted(self.input_batch.generators)
        output = self._sample(self.execute_model_state.logits, None)
        for i, discarded in enumerate(self.discard_request_mask.np):
            if discarded and i in self.input_batch.generators:
                self.input_batch.generators[i].set_offset(0)
        return output

    def _sample(self, logits: Any, spec_decode_metadata: Any) -> Any:
        return SimpleNamespace(logprobs_tensors=SimpleNamespace(selected_token_ranks=torch.ones(3, dtype=torch.long)))


def stamped(output: Any) -> list[bool]:
    return [unpack(int(rank)).entropy is not None for rank in output.logprobs_tensors.selected_token_ranks]


def test_v1_measures_the_rows_that_ask_before_the_grammar_is_applied() -> None:
    runner = RunnerV1()
    V1Hook(runner).install()
    runner.execute_model(None)
    output = runner.sample_tokens(None)
    assert stamped(output) == [True, False, True]
    entropy = unpack(int(output.logprobs_tensors.selected_token_ranks[0])).entropy
    assert entropy == pytest.approx(2.772589, abs=1e-5)  # log 16, not log 3


def test_v1_measures_nothing_under_speculative_decoding() -> None:
    runner = RunnerV1()
    V1Hook(runner).install()
    runner.execute_model("speculative")
    assert stamped(runner.sample_tokens(None)) == [False, False, False]


def test_v1_hides_the_generators_of_half_read_prompts_and_only_those() -> None:
    runner, kept, half_read = RunnerV1(), CpuGenerator(), CpuGenerator()
    V1Hook(runner).install()
    runner.input_batch.generators.update({0: kept, 1: half_read})
    runner.discard_request_mask.np = [False, True, False]
    runner.execute_model(None)
    runner.sample_tokens(None)
    assert runner.generators_seen == [0]
    assert runner.input_batch.generators == {0: kept, 1: half_read}


def test_the_stand_in_dies_of_such_a_seed_without_the_hook() -> None:
    runner = RunnerV1()
    runner.input_batch.generators[1] = CpuGenerator()
    runner.discard_request_mask.np = [False, True, False]
    runner.execute_model(None)
    with pytest.raises(RuntimeError, match="offset"):
        runner.sample_tokens(None)


class RunnerV2:
    """The parts of vLLM's V2 runner that the hook touches. Rows change places from step to step."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(compute_logits=lambda hidden: torch.zeros(len(hidden), 16))
        self.batch_sharder = None

    def execute_model(self, scheduler_output: Any, intermediate_tensors: Any = None) -> None:
        return None

    def sample(self, hidden_states: Any, input_batch: Any, grammar_output: Any) -> Any:
        logits = self.model.compute_logits(hidden_states)
        ranks = torch.ones(len(logits), dtype=torch.long)
        return SimpleNamespace(logprobs_tensors=SimpleNamespace(selected_token_ranks=ranks)), None, None


def step(runner: RunnerV2, new: dict[str, Any], order: list[str], finished: tuple[str, ...] = ()) -> list[bool]:
    scheduled = [SimpleNamespace(req_id=name, sampling_params=params) for name, params in new.items()]
    runner.execute_model(SimpleNamespace(scheduled_new_reqs=scheduled, finished_req_ids=set(finished)))
    output, _, _ = runner.sample(torch.zeros(len(order), 4), SimpleNamespace(req_ids=order), None)
    return stamped(output)


def test_v2_follows_requests_to_their_rows_and_forgets_the_finished() -> None:
    runner = RunnerV2()
    hook = V2Hook(runner)
    hook.install()
    assert step(runner, {"a": ASKS, "b": ASKS_NOT}, ["a", "b"]) == [True, False]
    assert step(runner, {}, ["b", "a"]) == [False, True]
    assert step(runner, {}, ["b"], finished=("a",)) == [False]
    assert hook._asking == set()
    assert hook.measured == 2


def test_v2_leaves_logits_alone_that_are_computed_outside_sampling() -> None:
    runner = RunnerV2()
    hook = V2Hook(runner)
    hook.install()
    step(runner, {"a": ASKS}, ["a"])
    runner.model.compute_logits(torch.zeros(2, 4))  # prompt logprobs
    assert hook.measured == 1


@pytest.mark.parametrize(("runner", "name"), [(RunnerV1(), "v1"), (RunnerV2(), "v2")])
def test_the_extension_finds_out_which_runner_it_wraps(runner: Any, name: str) -> None:
    worker = StropExtension()
    worker.model_runner = runner
    assert worker.strop_install(0) == {"runner": name, "installed": True, "why": ""}
    assert worker.strop_counts() == {"measured": 0, "failed": 0}


def test_an_unknown_runner_is_reported_and_left_alone() -> None:
    worker = StropExtension()
    worker.model_runner = SimpleNamespace(sample_tokens=lambda something: None)
    report = worker.strop_install(0)
    assert not report["installed"]
    assert "execute_model" in report["why"]


def test_a_changed_signature_is_reported() -> None:
    class Changed(RunnerV1):
        def sample_tokens(self, other: Any) -> Any:  # type: ignore[override]
            return None

    worker = StropExtension()
    worker.model_runner = Changed()
    assert "sample_tokens takes ('other',)" in worker.strop_install(0)["why"]


def test_the_processes_above_this_one_are_known() -> None:
    assert ancestors(os.getpid())[0] == os.getppid()
    assert os.getpid() not in ancestors(os.getpid())
    assert ancestors(2**30) == []
