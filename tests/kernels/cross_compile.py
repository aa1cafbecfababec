"""Compiles for sm_90, without a GPU, every kernel launch that a piece of code makes, and reports registers and spills.

Launches are recorded where Triton would run them, so the launch's own constants, warps and stages are what is compiled.
`python cross_compile.py` prints one JSON object {kernel: [{"registers": ..., "spills": ..., "shared": ...}]}.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

HOPPER = GPUTarget("cuda", 90, 32)
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
        if "--asm" in sys.argv:
            Path(f"/tmp/{self.__name__}.{len(report[self.__name__])}.cubin").write_bytes(built.asm["cubin"])

    real = JITFunction.run
    JITFunction.run = record
    try:
        code()
    finally:
        JITFunction.run = real
    return report


def every_launch() -> None:
    """Calls the Triton path of every op on small CPU tensors: shapes only steer constants, nothing is executed."""
    import torch

    from strop.kernels import row_stats

    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.zeros(4, 151936, dtype=dtype)
        ids, temperature = torch.zeros(4, dtype=torch.int64), torch.ones(4)
        row_stats.triton_row_stats(logits, ids, temperature, 20, None)
        row_stats.triton_row_stats(logits, None, None, 0, None)


if __name__ == "__main__":
    print(json.dumps(compile_launches(every_launch)))
