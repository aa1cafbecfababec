"""GGUF to a transformers folder, once per machine."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

log = logging.getLogger(__name__)

BLOCK = 1 << 20


def converted(gguf: Path, folder: Path, sha256: str | None = None) -> Path:
    """The folder with the converted weights, made if it does not exist. ValueError if the file's checksum differs.

    Safe with several processes: each converts into a folder of its own, the first one to finish renames it into place.
    """
    if folder.is_dir():
        return folder
    if sha256 is not None and checksum(gguf) != sha256:
        raise ValueError(f"{gguf} is damaged: its sha256 is not {sha256}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    log.info("converting %s (once)", gguf)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        convert(gguf, scratch)
        scratch.chmod(0o755)
        try:
            os.rename(scratch, folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Write `gguf` as bfloat16 safetensors with tokenizer and chat template."""
    source: dict[str, Any] = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):  # a model that calls itself quantised refuses to be saved
        settings.pop(key, None)
    plain: Any = type(loaded)(type(loaded.config)(**settings))
    plain = plain.to(torch.bfloat16)
    plain.load_state_dict({k: v.to(torch.bfloat16) for k, v in loaded.state_dict().items()}, strict=False)
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def checksum(path: Path) -> str:
    """sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
