"""What the numbers were measured on: names, versions, and the two ceilings that floors are computed from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Spread(NamedTuple):
    """Microseconds: the median and the 20th and 80th percentile of the runs."""

    median: float
    p20: float
    p80: float


class Ceilings(NamedTuple):
    """What this machine reaches: bytes per second of a large copy (read + write), FLOP per second of a product."""

    bandwidth: float
    flops: float

    def floor_us(self, moved: float, flop: float) -> float:
        """Least time for that traffic and arithmetic."""
        return max(moved / self.bandwidth, flop / self.flops) * 1e6


def spread(call: Callable[[], object], device: str) -> Spread:
    """Time of one call. On a GPU triton.testing.do_bench, which flushes the L2 cache before every run."""
    if device == "cuda":
        from triton.testing import do_bench

        median, p20, p80 = do_bench(call, warmup=25, rep=100, quantiles=[0.5, 0.2, 0.8])
        return Spread(median * 1e3, p20 * 1e3, p80 * 1e3)
    call()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - begin < 0.4 and len(times) < 200):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    tenths = statistics.quantiles(times, n=10)
    return Spread(statistics.median(times), tenths[1], tenths[7])


def ceilings(device: str) -> Ceilings:
    """Measured, not from a data sheet."""
    size, side = (1 << 30, 8192) if device == "cuda" else (1 << 26, 1024)
    source = torch.zeros(size, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a = torch.randn(side, side, device=device).to(dtype)
    copy, product = spread(lambda: target.copy_(source), device), spread(lambda: a @ a, device)
    return Ceilings(8 * size / copy.median * 1e6, 2 * side**3 / product.median * 1e6)


def describe(device: str) -> dict[str, str]:
    """Machine and versions, as columns of every row."""
    versions = [f"python {platform.python_version()}"]
    for package in ("torch", "triton", "liger-kernel", "cut-cross-entropy"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} -")
    if device == "cuda":
        name = torch.cuda.get_device_name()
        versions.append(f"cuda {torch.version.cuda}")
    else:
        name = f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        name += f", load {os.getloadavg()[0]:.1f}"
    return {"machine": name, "versions": "; ".join(versions)}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
