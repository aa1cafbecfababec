"""How the vLLM engine is chosen, and what is said when it cannot be."""

from __future__ import annotations

import importlib.util

import pytest
from typer.testing import CliRunner

from strop.server.cli import app
from strop.server.engine.catalogue import policy
from strop.server.engine.vllm.engine import VllmEngine
from strop.server.settings import Settings


def pretend(monkeypatch: pytest.MonkeyPatch, *, installed: bool) -> None:
    real = importlib.util.find_spec
    fake = real("json") if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: fake if name == "vllm" else real(name, *a))


def test_a_missing_vllm_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, installed=False)
    with pytest.raises(ImportError, match=r"pip install 'vllm>=0\.32,<0\.33'"):
        policy(Settings(engine="vllm", model="m"))


def test_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, installed=True)
    with pytest.raises(ValueError, match="needs a model"):
        policy(Settings(engine="vllm"))


def test_nothing_is_offered_before_it_runs_and_health_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, installed=True)
    engine = policy(Settings(engine="vllm", model="org/model", vllm_flags=("--tensor-parallel-size", "2")))
    assert isinstance(engine, VllmEngine)
    assert engine.model.name == "org/model"
    assert not engine.capabilities.offers
    assert not engine.health().ready
    assert list(engine.collector.collect()) == []


def test_flags_after_the_dashes_are_for_vllm_only() -> None:
    result = CliRunner().invoke(app, ["serve", "m", "--engine", "simulated", "--", "--tensor-parallel-size", "2"])
    assert result.exit_code == 2
    assert "only the vllm engine takes further flags: --tensor-parallel-size 2" in result.output


def test_a_flag_that_strop_sets_itself_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, installed=True)
    result = CliRunner().invoke(app, ["serve", "m", "--engine", "vllm", "--", "--runner", "pooling"])
    assert result.exit_code == 2
    assert "--runner cannot be passed on to vLLM" in result.output
