"""The hook for vLLM's Model Runner V1 (CPU, and GPUs without Triton).

V1 leaves the step's logits in `execute_model_state` and samples in `sample_tokens`, which calls `_sample`. Row i of
the logits belongs to request `input_batch.req_ids[i]`. The grammar's mask is applied inside `sample_tokens`, so what
is measured before it is the model's own distribution.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from strop.server.engine.vllm.channel import OPT_IN
from strop.server.engine.vllm.measure import Meter, Stamps

EXPECTED = {
    "execute_model": ("scheduler_output", "intermediate_tensors"),
    "sample_tokens": ("grammar_output",),
    "_sample": ("logits", "spec_decode_metadata"),
}


def require_signatures(target: Any, expected: dict[str, tuple[str, ...]]) -> None:
    """TypeError unless `target` has these methods with these parameters (further ones are allowed)."""
    for name, wanted in expected.items():
        method = getattr(target, name, None)
        if method is None:
            raise TypeError(f"{type(target).__name__} has no {name}")
        found = tuple(inspect.signature(inspect.unwrap(method)).parameters)
        found = found[1:] if found[:1] == ("self",) else found
        if found[: len(wanted)] != wanted:
            raise TypeError(f"{type(target).__name__}.{name} takes {found}, not {wanted}")


class V1Hook:
    """Measures rows of requests that ask for it, and keeps seeds of half-read prompts from ending a CPU engine."""

    name = "v1"

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._meter = Meter()
        self._stamps: list[Stamps] = []

    @property
    def measured(self) -> int:
        """Rows measured so far."""
        return self._meter.measured

    @property
    def failed(self) -> int:
        """Rows that could not be measured."""
        return self._meter.failed

    def install(self) -> None:
        """Wrap the runner's methods. TypeError if they are not what is expected."""
        runner = self._runner
        require_signatures(runner, EXPECTED)
        for name in ("execute_model_state", "input_batch", "requests", "discard_request_mask"):
            if not hasattr(runner, name):
                raise TypeError(f"{type(runner).__name__} has no {name}")
        sample_tokens, sample = runner.sample_tokens, runner._sample

        def sample_tokens_measured(grammar_output: Any, *args: Any, **kwargs: Any) -> Any:
            self._look()
            with self._without_seeds_of_unfinished_prompts():
                return sample_tokens(grammar_output, *args, **kwargs)

        def sample_stamped(*args: Any, **kwargs: Any) -> Any:
            output = sample(*args, **kwargs)
            self._stamp(output)
            return output

        runner.sample_tokens, runner._sample = sample_tokens_measured, sample_stamped

    def _look(self) -> None:
        self._stamps = []
        state = self._runner.execute_model_state
        if state is None or state.logits is None or state.spec_decode_metadata is not None:
            return
        rows = [i for i, request in enumerate(self._runner.input_batch.req_ids) if self._asks(request)]
        if rows:
            with torch.inference_mode():
                self._stamps = self._meter.measure(state.logits, rows)

    def _asks(self, request: str) -> bool:
        known = self._runner.requests.get(request)
        params = known.sampling_params if known is not None else None
        return bool(params is not None and params.extra_args and params.extra_args.get(OPT_IN))

    def _stamp(self, output: Any) -> None:
        tensors = output.logprobs_tensors
        if tensors is None:
            return
        with torch.inference_mode():
            for stamps in self._stamps:
                stamps.onto(tensors.selected_token_ranks)

    @contextmanager
    def _without_seeds_of_unfinished_prompts(self) -> Iterator[None]:
        """A prompt read in several steps is sampled, and the sample discarded, after each of them. vLLM then winds the
        request's random generator back, which a CPU generator cannot do: the error would end the engine. Hiding the
        generator for such a step leaves it where it was, as intended, on every device.
        """
        batch = self._runner.input_batch
        mask = self._runner.discard_request_mask.np
        unfinished = [i for i in batch.generators if i < len(mask) and mask[i]] if batch.generators else []
        hidden = {i: batch.generators.pop(i) for i in unfinished}
        try:
            yield
        finally:
            batch.generators.update(hidden)
