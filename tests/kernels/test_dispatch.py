"""Which path serves a call, and what a broken kernel does to the server."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from strop.kernels import dispatch, row_stats, self_check
from strop.kernels.self_check import CHECKS, check, difference

IN_CHILD = pytest.mark.skipif(os.environ.get("STROP_KERNELS") == "interpret", reason="about the ordinary process")


@IN_CHILD
def test_a_cpu_tensor_goes_to_torch_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STROP_KERNELS", raising=False)
    assert dispatch.use_triton("row_stats", torch.empty(1)) is False


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_KERNELS", "cuda")
    with pytest.raises(ValueError, match="use one of auto, triton, torch, interpret"):
        row_stats(torch.zeros(1, 2))


def test_forced_triton_never_falls_back_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_KERNELS", "triton")
    with pytest.raises(RuntimeError, match="row_stats got a tensor on cpu"):
        row_stats(torch.zeros(1, 2))


@IN_CHILD
def test_the_interpreter_has_to_be_asked_for_before_the_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_KERNELS", "interpret")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1 before the process starts"):
        row_stats(torch.zeros(1, 2))


@IN_CHILD
def test_without_a_device_every_op_is_healthy_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STROP_KERNELS", raising=False)
    report = self_check("cpu")
    assert set(report) == set(CHECKS)
    assert all(health.path == "torch" and health.ok for health in report.values())


def test_every_op_passes_its_self_check_in_the_interpreter(interpreter: None) -> None:
    report = self_check("cpu")
    assert all(health.path == "triton" and health.ok for health in report.values()), report


@pytest.mark.parametrize(
    ("broken", "detail"),
    [
        (lambda device: 0.5, "differs from the reference by 0.5"),
        (lambda device: 1 // 0, "ZeroDivisionError"),
        (lambda device: float("nan"), "differs"),
    ],
    ids=["wrong", "crash", "nan"],
)
def test_a_kernel_that_fails_its_check_is_replaced_loudly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: object, detail: str
) -> None:
    monkeypatch.setitem(CHECKS, "row_stats", broken)
    monkeypatch.delenv("STROP_KERNELS", raising=False)
    monkeypatch.setattr(dispatch, "supported", lambda tensor: True)
    check.cache_clear()
    with caplog.at_level(logging.ERROR):
        assert dispatch.use_triton("row_stats", torch.empty(1)) is False
        assert dispatch.use_triton("row_stats", torch.empty(1)) is False
    health = check("row_stats", "cpu")
    check.cache_clear()
    assert (health.path, health.ok) == ("torch", False)
    assert detail in health.detail
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "served by torch" in caplog.text


def test_a_difference_in_nan_or_infinity_is_infinite() -> None:
    inf, nan = torch.tensor([torch.inf]), torch.tensor([torch.nan])
    assert difference([nan, inf, -inf], [nan, inf, -inf]) == 0.0
    assert difference([nan], [torch.zeros(1)]) == torch.inf
    assert difference([inf], [-inf]) == torch.inf
    assert difference([torch.tensor([3.0])], [torch.tensor([1.0])]) == 1.0


@IN_CHILD
def test_the_torch_path_works_without_triton(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise ImportError('no triton here')")
    code = """
import sys, torch, strop.kernels as k
x = torch.randn(2, 50)
k.row_stats(x, torch.tensor([1, 2]), None, 3)
k.entropy_gate(torch.ones(2), torch.tensor([0, 1]), k.EntropyGate.allocate(2, "cpu"))
assert "triton" not in sys.modules, "imported"
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    env.pop("STROP_KERNELS", None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
