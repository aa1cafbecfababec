"""Measures every kernel: `python -m bench.kernels`, from the root of the repository.

First the self-check of every op against its reference and the statistics against float64; a mismatch ends the run
with exit code 1 before anything is timed. Then medians and 20th and 80th percentiles in microseconds, beside the
floor (bytes over measured copy bandwidth or FLOP over a measured product, whichever takes longer), eager torch,
torch.compile where it is worth its start-up, Liger and cut-cross-entropy where installed. Rows go to
bench/results/kernels_gpu.csv.

    --quick   the served shapes only (about a minute on a GPU)
    --cpu     the reduced form without a GPU: the torch path on one thread, kernels_cpu.csv; the default without one
    --out     another file
"""

from __future__ import annotations

import argparse
import csv
import datetime
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.kernels.cases import CPU, FULL, QUICK, Case, every_case
from bench.kernels.machine import Ceilings, ceilings, describe, spread
from strop.kernels import row_stats, self_check

log = logging.getLogger("bench.kernels")
RESULTS = Path(__file__).resolve().parents[1] / "results"
BASELINES = ("eager", "torch_compile", "liger", "cce")
COLUMNS = [
    "kernel", "shape", "dtype", "bytes", "flop", "floor_us", "median_us", "p20_us", "p80_us", "pct_floor",
    *(f"{baseline}_us" for baseline in BASELINES), "path", "mode", "date", "machine", "versions",
]  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; the exit code is 1 if an op disagrees with its reference."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels", description="time the kernels against their floors"
    )
    parser.add_argument("--quick", action="store_true", help="the served shapes only")
    parser.add_argument("--cpu", action="store_true", help="the torch path on the CPU, reduced shapes")
    parser.add_argument("--out", type=Path, default=None, help="CSV file to append to")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    device = "cpu" if options.cpu or not torch.cuda.is_available() else "cuda"
    if device == "cpu":
        torch.set_num_threads(1)  # two threads on a shared machine measure the scheduler
    if not correct(device):
        return 1
    sizes, mode = (
        (CPU, "cpu, reduced shapes, no GPU")
        if device == "cpu"
        else (QUICK, "quick")
        if options.quick
        else (FULL, "full")
    )
    limits = ceilings(device)
    print(f"\ncopy {limits.bandwidth / 1e9:.0f} GB/s, product {limits.flops / 1e12:.2f} TFLOP/s")
    about = {"mode": mode, "date": datetime.date.today().isoformat(), **describe(device)}
    with open(options.out or RESULTS / f"kernels_{'cpu' if device == 'cpu' else 'gpu'}.csv", "a", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            table.writeheader()
        for case in every_case(sizes, device):
            row = measure(case, limits, device) | about | {"path": "triton" if device == "cuda" else "torch"}
            table.writerow(row)
            file.flush()
            print(f"{row['kernel']:30} {row['shape']:28} {row['dtype']:9}", end=" ")
            print(f"{row['median_us']:>10} us {row['pct_floor']:>6} % of floor, eager {row.get('eager_us', '-')}")
    return 0


def correct(device: str) -> bool:
    """Print every op's health; False if one disagrees with its reference."""
    report = self_check(device)
    for op, health in report.items():
        print(f"{op:16} {health.path:7} error {health.error:.1e}  {health.detail}")
    worst = max(against_float64(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    print(f"{'row_stats':16} relative error against float64 at V=151936: {worst:.1e}")
    return all(health.ok for health in report.values()) and worst < 1e-5


def against_float64(device: str, dtype: torch.dtype) -> float:
    """||got - exact|| / ||exact|| of log-probability and entropy, the larger of the two."""
    logits = (torch.randn(8, 151936, device=device) * 3).to(dtype)
    targets = torch.arange(8, device=device) * 18000
    stats, logp = row_stats(logits, targets), torch.log_softmax(logits.double(), 1)
    exact = {"logprob": logp.gather(1, targets[:, None])[:, 0], "entropy": -(logp.exp() * logp).sum(1)}
    return max(float((getattr(stats, name) - want).norm() / want.norm()) for name, want in exact.items())


def measure(case: Case, limits: Ceilings, device: str) -> dict[str, object]:
    """One row of the table, without the columns about the machine."""
    time, floor = spread(case.call, device), limits.floor_us(case.moved, case.flop)
    row: dict[str, object] = {
        "kernel": case.kernel, "shape": case.shape, "dtype": case.dtype,
        "bytes": round(case.moved), "flop": round(case.flop), "floor_us": round(floor, 2),
        "median_us": round(time.median, 1), "p20_us": round(time.p20, 1), "p80_us": round(time.p80, 1),
        "pct_floor": round(100 * floor / time.median, 1),
    }  # fmt: skip
    for baseline, call in case.others.items():
        try:
            row[f"{baseline}_us"] = round(spread(call, device).median, 1)
        except Exception:  # boundary: a baseline that does not run must not stop the measurement
            log.exception("the baseline %s of %s does not run", baseline, case.kernel)
            row[f"{baseline}_us"] = "failed"
    return row
