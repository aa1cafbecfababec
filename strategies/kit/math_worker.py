"""The program that compares two answers with math-verify. It is started by `math_equal` and may be killed any time.

Run as a file (`python -P math_worker.py SECONDS MEGABYTES`), so it imports nothing of strop. It says "ready", then
takes one JSON list per line on stdin and gives a word and the processor seconds it took back:

    [a]      ->  yes 0.012 | no 0.012    can the text be read as mathematics?
    [a, b]   ->  yes 0.012 | no 0.012    are the two equal?

math-verify's own timeouts are off: they need signals and Python bytecode to run, and neither can interrupt a huge power
or a parser that backtracks for ever. Instead the kernel ends this process when one line has used too much processor
time or memory. Nothing here evaluates text as Python: only the LaTeX grammar reads it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import lru_cache
from typing import Any


def bound(megabytes: int) -> None:
    """Limit the memory of this process (Linux only) and forbid core files."""
    if sys.platform == "linux":
        import resource

        limit = megabytes << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def clock(seconds: float) -> None:
    """Let the kernel end this process after so many more seconds of processor time; 0 stops the clock."""
    if sys.platform != "win32":
        import signal

        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)


@lru_cache(maxsize=512)
def expressions(text: str) -> tuple[Any, ...]:
    """What math-verify reads in the text; empty when it reads nothing."""
    from math_verify import LatexExtractionConfig, parse

    rules = [LatexExtractionConfig(boxed_match_priority=0)]
    return tuple(parse(rf"\boxed{{{text}}}", rules, fallback_mode="no_fallback", parsing_timeout=None))


def equal(a: str, b: str) -> bool:
    """Whether the two are equal, asked both ways because math-verify is not symmetric."""
    from math_verify import verify

    left, right = list(expressions(a)), list(expressions(b))
    if not left or not right:
        return False
    return bool(verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None))


def answer(texts: list[str]) -> bool:
    """The reply to one request; too deep or too big counts as no."""
    try:
        return bool(expressions(texts[0])) if len(texts) == 1 else equal(*texts)
    except (RecursionError, MemoryError):
        return False


def reply(line: str) -> None:
    """Say one line to the parent."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(seconds: float, megabytes: int) -> None:
    """Serve until stdin ends."""
    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401

    bound(megabytes)
    reply("ready")
    for line in sys.stdin:
        texts = json.loads(line)
        clock(seconds)
        began = time.process_time()
        says = answer(texts)
        clock(0)
        reply(f"{'yes' if says else 'no'} {time.process_time() - began:.6f}")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
