"""Compiles for sm_90, without a GPU, every kernel launch that a piece of code makes, and reports registers and spills.

Launches are recorded where Triton would run them, so the launch's own constants, warps and stages are what is
compiled. `python cross_compile.py [FOLDER]` writes the cubins to FOLDER and prints one JSON object {kernel:
[{"registers": ..., "spills": ..., "shared": ...}]}.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

from strop.kernels import triton_gates, triton_logit_grad, triton_skinny, triton_srgen_state
from strop.kernels.confidence_gate import ConfidenceGate
from strop.kernels.entropy_gate import EntropyGate, Flagged
from strop.kernels.head import Head
from strop.kernels.row_stats import Workspace, triton_row_stats
from strop.kernels.srgen_fit import triton_fit
from strop.kernels.srgen_state import Plan, SlotState
from strop.kernels.sum_softmax import triton_sum_softmax

HOPPER = GPUTarget("cuda", 90, 32)
VOCAB = 151936
KEEP = Path(sys.argv[1]) if len(sys.argv) > 1 else None
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _source(fn: Any, values: dict[str, Any]) -> ASTSource:
    signature, constants, attrs = {}, {}, {}
    for index, param in enumerate(fn.params):
        value = values[param.name]
        if param.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[param.name], constants[param.name] = "constexpr", value
            continue
        signature[param.name] = mangle_type(value)
        number = value.data_ptr() if hasattr(value, "data_ptr") else value
        if isinstance(number, int) and number % 16 == 0:
            attrs[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(fn, signature, constants, attrs)


def _usage(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = dict(
        pair.split(":")
        for line in text.splitlines()
        if "REG:" in line
        for pair in line.split()
        if ":" in pair and "[" not in pair
    )
    return {"registers": int(numbers["REG"]), "spills": int(numbers["STACK"]) + int(numbers["LOCAL"])}


def compile_launches(code: Callable[[], None]) -> dict[str, list[dict[str, Any]]]:
    """Run `code` with every Triton launch replaced by a compilation for sm_90."""
    report: dict[str, list[dict[str, Any]]] = {}

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
        values = dict(zip(self.arg_names, args, strict=False)) | kwargs
        built = triton.compile(_source(self, values), target=HOPPER, options=options)
        row = {**_usage(built.asm["cubin"]), "shared": built.metadata.shared, "warps": built.metadata.num_warps}
        row["constants"] = {p.name: values[p.name] for p in self.params if p.is_constexpr}
        report.setdefault(self.__name__, []).append(row)
        if KEEP:
            (KEEP / f"{self.__name__}.{len(report[self.__name__])}.cubin").write_bytes(built.asm["cubin"])

    real = JITFunction.run
    JITFunction.run = record
    try:
        code()
    finally:
        JITFunction.run = real
    return report


def every_launch() -> None:
    """Calls the Triton path of every op on CPU tensors of the sizes served: shapes steer constants, nothing is
    executed."""
    ids, ones = torch.zeros(4, dtype=torch.int64), torch.ones(4)
    for dtype in (torch.float16, torch.float32, torch.bfloat16):
        logits = torch.zeros(4, VOCAB, dtype=dtype)
        triton_row_stats(logits, ids, ones, 20, None)
        triton_row_stats(logits, None, None, 0, torch.zeros(VOCAB))
    triton_logit_grad.launch(logits, ids, ones, ones, ones, ones, ones, ones, torch.empty_like(logits))
    gate, flagged = EntropyGate.allocate(8, "cpu"), Flagged.allocate(256, 16, "cpu")
    triton_gates.launch_entropy(torch.ones(256), torch.zeros(256, dtype=torch.int32), gate, flagged)
    groups = ConfidenceGate.allocate(8, "cpu")
    triton_gates.launch_confidence(ones, ids.int(), groups, torch.zeros(4, dtype=torch.bool), ones)
    exact, out = logits.float(), torch.empty(4, VOCAB, dtype=torch.bfloat16)
    triton_logit_grad.launch(exact, ids, None, ones, ones, ones, ones, ones, out)
    for sparse, dtype in ((20, torch.bfloat16), (0, torch.float32), (5, torch.float16)):
        state = SlotState.allocate(1, VOCAB, "cpu", sparse=sparse)
        head = Head(torch.zeros(VOCAB, 64, dtype=dtype))
        stats = Workspace.allocate(4, VOCAB, sparse, "cpu").result()
        plan = Plan(ids, ids, ids > 0)
        triton_srgen_state.launch_observe(state, ids, logits, stats, plan, torch.zeros(5, dtype=torch.int64))
        triton_srgen_state.launch_observe(state, ids, exact, stats, plan, None)
        triton_fit(exact, flagged, head, state, ids, 2, None)
        triton_skinny.push(head.weight, torch.zeros(16, 64), 1.0, flagged.count, logits.float(), rows=flagged.rows)
    triton_sum_softmax(logits, torch.zeros(VOCAB), stats)
    triton_sum_softmax(logits, None, stats)


if __name__ == "__main__":
    json.dump(compile_launches(every_launch), sys.stdout)
