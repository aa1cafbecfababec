"""The hook for vLLM's Model Runner V2 (the default on GPUs).

V2 computes logits inside `sample(hidden_states, input_batch, grammar_output)` by `model.compute_logits`, before the
grammar's mask. Row i belongs to `input_batch.req_ids[i]`, which is sorted anew every step. Sampling parameters are
seen only when a request is admitted, so the wish for statistics is remembered from `execute_model`.
"""

from __future__ import annotations

from typing import Any

import torch

from strop.server.engine.vllm.channel import OPT_IN
from strop.server.engine.vllm.hook_v1 import require_signatures
from strop.server.engine.vllm.measure import Meter, Stamps

EXPECTED = {"execute_model": ("scheduler_output",), "sample": ("hidden_states", "input_batch", "grammar_output")}


class V2Hook:
    """Measures rows of requests that ask for it."""

    name = "v2"

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._meter = Meter()
        self._asking: set[str] = set()
        self._rows: list[int] = []
        self._stamps: list[Stamps] = []

    @staticmethod
    def fits(runner: Any) -> bool:
        """Whether this is a V2 runner."""
        return hasattr(runner, "sample") and not hasattr(runner, "_sample")

    @property
    def measured(self) -> int:
        """Rows measured so far."""
        return self._meter.measured

    @property
    def failed(self) -> int:
        """Rows that could not be measured."""
        return self._meter.failed

    def install(self) -> None:
        """Wrap the runner's and the model's methods. TypeError if they are not what is expected."""
        runner = self._runner
        require_signatures(runner, EXPECTED)
        if getattr(runner, "batch_sharder", None) is not None:
            raise TypeError("sampling is sharded over the batch; start without enable_batch_sharded_sampling")
        execute_model, sample, compute_logits = runner.execute_model, runner.sample, runner.model.compute_logits

        def execute_model_noted(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            self._note(scheduler_output)
            return execute_model(scheduler_output, *args, **kwargs)

        def compute_logits_measured(*args: Any, **kwargs: Any) -> Any:
            logits = compute_logits(*args, **kwargs)
            if self._rows and logits is not None:
                self._stamps = self._meter.measure(logits, self._rows)
            return logits

        def sample_stamped(hidden_states: Any, input_batch: Any, *args: Any, **kwargs: Any) -> Any:
            self._rows = [i for i, request in enumerate(input_batch.req_ids) if request in self._asking]
            self._stamps = []
            try:
                output = sample(hidden_states, input_batch, *args, **kwargs)
            finally:
                self._rows = []
            self._stamp(output)
            return output

        runner.execute_model, runner.sample = execute_model_noted, sample_stamped
        runner.model.compute_logits = compute_logits_measured

    def _note(self, scheduled: Any) -> None:
        """Who asks, who is gone. Empty steps may bring finished ids alone."""
        for request in scheduled.scheduled_new_reqs:
            params = request.sampling_params
            if params is not None and params.extra_args and params.extra_args.get(OPT_IN):
                self._asking.add(request.req_id)
        self._asking -= set(scheduled.finished_req_ids)

    def _stamp(self, output: Any) -> None:
        sampled = output[0] if isinstance(output, tuple) else output
        tensors = getattr(sampled, "logprobs_tensors", None)
        if tensors is None:
            return
        with torch.inference_mode():
            for stamps in self._stamps:
                stamps.onto(tensors.selected_token_ranks)
