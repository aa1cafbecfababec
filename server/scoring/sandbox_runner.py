"""The first program inside the sandbox: bounds itself, then runs what it was given on stdin.

It imports nothing of strop. stdin holds one JSON object, see `Sandbox.run`; the first line it says is "ready". Exit
codes: `passed` when all programs ran to their end, 1 for a failed assertion or exit code 1, anything else when they
broke.
"""

import io
import json
import linecache
import os
import resource
import sys
import traceback

BROKEN = 2
FILE_BYTES = 8 << 20
PROCESSES = 64


def bound(seconds: float, megabytes: int) -> None:
    """Limits that the programs cannot lift."""
    cpu, memory = int(seconds) + 2, megabytes << 20  # the wall clock comes first
    for limit, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, PROCESSES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def run(programs: list[tuple[str, str]], passed: int) -> int:
    """Run them in one namespace; the exit code."""
    names: dict[str, object] = {"__name__": "__main__"}
    try:
        for name, source in programs:
            linecache.cache[name] = (len(source), None, source.splitlines(True), name)
            exec(compile(source, name, "exec"), names)
    except SystemExit as left:
        if len(programs) > 1:
            return 1  # an answer that leaves before its tests
        return passed if left.code in (None, 0) else 1 if left.code == 1 else BROKEN
    except BaseException as failure:  # noqa: BLE001  # boundary: whatever a program raises is its result
        trace = failure.__traceback__.tb_next if failure.__traceback__ else None
        traceback.print_exception(type(failure), failure, trace)
        return 1 if isinstance(failure, AssertionError) or len(programs) > 1 else BROKEN
    return passed


if __name__ == "__main__":
    task = json.load(sys.stdin)
    sys.stdin = io.StringIO(task["stdin"])
    print("ready", flush=True)  # noqa: T201
    bound(task["seconds"], task["megabytes"])
    code = run(task["programs"], task["passed"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
