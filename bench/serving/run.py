"""Pass-through overhead and best-of-8 wall time over one upstream of fixed latency, beside optillm in the same run.

    python bench/serving/run.py [--quick] [--optillm PATH_TO_ITS_EXECUTABLE]

optillm is a peer, not a dependency: install it into a venv of its own (`pip install optillm==0.4.0`) and name its
executable; without it the rows of strop and of the bare upstream are still measured. Writes bench/results/serving.csv.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import platform
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "serving.csv"
sys.path.insert(0, str(HERE))

from load import Load, answers, measure, until  # noqa: E402

LATENCY = 0.02
CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is 3 + 4? Think, then answer."}],
    "temperature": 0.7,
}


@dataclass(frozen=True)
class System:
    """A server under test: how it is started, and what its requests look like."""

    name: str
    version: str
    port: int
    process: subprocess.Popen[bytes] | None
    plain: dict[str, Any]
    best_of_8: dict[str, Any] | None

    def peak_mib(self) -> float:
        """Peak resident memory of the process."""
        if self.process is None:
            return 0.0
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(stack: ExitStack, command: list[str], **env: str) -> subprocess.Popen[bytes]:
    """Start a server; it is ended when the stack closes."""
    process = subprocess.Popen(
        command, env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp"
    )
    stack.callback(lambda: (process.terminate(), process.wait(10)))
    return process


async def systems(stack: ExitStack, optillm: str | None) -> list[System]:
    """The bare upstream, strop over it, and optillm over it."""
    up = free_port()
    start(stack, [sys.executable, str(HERE / "upstream.py"), str(up), str(LATENCY)])
    await until(lambda: answers(up, "/v1/models"))
    found = [System("upstream", "-", up, None, ASK | {"model": "fixed"}, None)]
    port = free_port()
    strop = [str(Path(sys.executable).parent / "strop"), "serve", "--engine", "remote"]
    strop += ["--upstream", f"http://127.0.0.1:{up}/v1", "--port", str(port), "--uvicorn-log-level", "warning"]
    process = start(stack, strop)
    await until(lambda: answers(port, "/health/ready"))
    refined = ASK | {"model": "fixed", "strop": {"strategy": "best_of_n", "n": 8, "by": "judge"}}
    found.append(System("strop", version("strop"), port, process, ASK | {"model": "fixed"}, refined))
    if optillm:
        port = free_port()
        command = [optillm, "--base-url", f"http://127.0.0.1:{up}/v1", "--port", str(port), "--host", "127.0.0.1"]
        process = start(stack, [*command, "--best-of-n", "8", "--log", "error"], OPENAI_API_KEY="bench")
        await until(lambda: answers(port, "/v1/models"))
        bon = ASK | {"model": "bon-fixed"}
        found.append(System("optillm", "0.4.0", port, process, ASK | {"model": "none-fixed"}, bon))
    return found


async def run(quick: bool, optillm: str | None) -> list[dict[str, Any]]:
    """All rows. Systems take turns within each case, so that a change of the machine's speed hits all of them."""
    rows = []
    scale = 1 if quick else 4
    with ExitStack() as stack:
        under_test = await systems(stack, optillm)
        for case, connections, requests in (
            ("plain", 1, 50),
            ("plain", 32, 500),
            ("best_of_8", 1, 8),
            ("best_of_8", 8, 32),
        ):
            for system in under_test:
                body = system.plain if case == "plain" else system.best_of_8
                if body is None:
                    continue
                await measure(system.port, CHAT, body, connections=connections, requests=connections * 2)
                load = await measure(system.port, CHAT, body, connections=connections, requests=requests * scale)
                rows.append(row(system, case, connections, load))
    return rows


def row(system: System, case: str, connections: int, load: Load) -> dict[str, Any]:
    """One line of the table."""
    return {
        "case": case,
        "system": system.name,
        "version": system.version,
        "connections": connections,
        "requests": load.requests,
        "failed": load.failed,
        "per_second": round(load.per_second, 1),
        "p50_ms": round(load.p50 * 1e3, 2),
        "p99_ms": round(load.p99 * 1e3, 2),
        "peak_mib": round(system.peak_mib(), 1),
        "upstream_ms": LATENCY * 1e3,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> None:
    """Measure, print the table, write the CSV."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--optillm", default=os.environ.get("STROP_BENCH_OPTILLM"))
    given = options.parse_args()
    rows = asyncio.run(run(given.quick, given.optillm))
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as out:
        table = csv.DictWriter(out, rows[0])
        table.writeheader()
        table.writerows(rows)
    for line in rows:
        print(
            " ".join(
                f"{key}={line[key]}"
                for key in ("case", "system", "connections", "per_second", "p50_ms", "p99_ms", "peak_mib", "failed")
            )
        )


if __name__ == "__main__":
    main()
