"""Every kernel launch compiles for sm_90, as launched, without spilling registers. Needs no GPU."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"


def tools() -> Path | None:
    """The assembler and the object dumper that the triton wheel brings along."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "backends" / "nvidia" / "bin"
    return folder if (folder / "cuobjdump").exists() and (folder / "ptxas").exists() else None


def launched_kernels() -> set[str]:
    """Names of the @triton.jit functions that some code launches with a grid, `kernel[grid](...)`."""
    trees = [ast.parse(path.read_text()) for path in KERNELS.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    jitted = {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.decorator_list and "jit" in ast.dump(node.decorator_list[0])
    }
    calls = [node.func.value for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)]
    return jitted & {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


@pytest.mark.skipif(tools() is None, reason="triton's ptxas and cuobjdump are not installed")
@pytest.mark.skipif(os.environ.get("STROP_KERNELS") == "interpret", reason="the interpreter compiles nothing")
def test_every_kernel_launch_compiles_for_hopper_without_spills(record_property: pytest.RecordProperty) -> None:
    env = {**os.environ, "TRITON_DEFAULT_FP_FUSION": "1", "STROP_KERNELS": "torch"}
    env.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(HERE / "cross_compile.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout)
    record_property(
        "registers", {name: [launch["registers"] for launch in launches] for name, launches in report.items()}
    )
    assert set(report) == launched_kernels()
    for name, launches in report.items():
        for launch in launches:
            assert launch["spills"] == 0, (name, launch)
            assert launch["registers"] * launch["warps"] * 32 <= 65536, (name, launch)
            assert launch["shared"] <= 227 * 1024, (name, launch)
