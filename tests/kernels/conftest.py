"""The float64 oracle of the kernel tests, and which path this process tests.

The same tests run twice: on the torch path here, and on the Triton path in a child process that
`test_interpreter.py` starts with STROP_KERNELS=interpret and TRITON_INTERPRET=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("STROP_KERNELS") == "interpret"


def row_stats64(x: Tensor, targets: Tensor, temperature: Tensor | None, topk: int) -> dict[str, Tensor]:
    """Every field of `row_stats`, from its definition, one row at a time, in float64."""
    rows = []
    for b, row in enumerate(x.double()):
        t = 1.0 if temperature is None or temperature[b] <= 0 else float(temperature[b])
        y, peak = int(targets[b]), row.max()
        logp, raw = torch.log_softmax(row / t, 0), torch.log_softmax(row, 0)
        order = torch.argsort(row, descending=True, stable=True)[:topk]
        real = row > -torch.inf
        empty = not real.any()
        largest = raw[order]
        rows.append(
            {
                "max_logit": peak,
                "log_z": torch.logsumexp((row - peak) / t, 0),
                "raw_log_z": torch.logsumexp(row - peak, 0),
                "logsumexp": torch.logsumexp(row / t, 0),
                "logprob": logp[y] if 0 <= y < len(row) else logp.new_tensor(torch.nan),
                "entropy": -(logp.exp() * logp).nan_to_num(0.0).sum() if not empty else logp.new_tensor(torch.nan),
                "mean_logprob": logp[real].mean(),
                "confidence": -largest.mean() if topk and (largest > -torch.inf).all() else logp.new_tensor(torch.nan),
                "rank": torch.tensor(1 + int((row > row[y]).sum()) if 0 <= y < len(row) else 0),
                "support": real.sum(),
                "topk_ids": order,
                "topk_logprobs": logp[order],
            }
        )
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def close(got: Tensor, want: Tensor, tolerance: float = 4e-6, what: str = "") -> None:
    """|got - want| <= tolerance * (1 + |want|), with NaN and infinities in the same places."""
    got, want = got.double(), want.double()
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    same = (got == want) | (got.isnan() & want.isnan())
    gap = torch.where(same, 0.0, (got - want).abs() / (1 + want.abs())).nan_to_num(torch.inf, posinf=torch.inf)
    assert gap.numel() == 0 or float(gap.max()) <= tolerance, f"{what}: off by {float(gap.max()):.3g}\n{got}\n{want}"


def agree(stats: Iterable[Tensor], want: dict[str, Tensor], tolerance: float = 4e-6) -> None:
    """Every field of a RowStats against the oracle; integers exactly."""
    for (name, expected), got in zip(want.items(), stats, strict=True):
        close(got, expected, 0.0 if got.dtype == torch.int64 else tolerance, name)


if INTERPRETED:
    from triton.runtime.interpreter import InterpretedFunction

    call_any = InterpretedFunction.__call__

    def _call_helper(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Our helpers run as the kernel around them does: preparing triton.language anew takes half of all time."""
        ours = self.fn.__module__.startswith("strop.")
        return self.rewrite()(*args, **kwargs) if ours else call_any(self, *args, **kwargs)

    InterpretedFunction.__call__ = _call_helper


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The interpreter computes masked lanes in numpy, which warns where a GPU says nothing."""
    if INTERPRETED:
        for item in items:
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"))


@pytest.fixture
def oracle() -> SimpleNamespace:
    """row_stats64(x, targets, temperature, topk), close(got, want, tolerance) and agree(stats, want)."""
    return SimpleNamespace(row_stats64=row_stats64, close=close, agree=agree)


@pytest.fixture
def interpreter() -> None:
    """For tests of the Triton path alone."""
    if not INTERPRETED:
        pytest.skip("needs the interpreter: runs in the child process of test_interpreter.py")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers whatever ran before."""
    torch.manual_seed(0)
