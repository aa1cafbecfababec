"""The embedded engine against a loop of `model.generate` calls: the same drafts, the same model, the same run.

    python bench/serving/embedded.py [--drafts 1 8 32] [--tokens 24] [--repeats 3] [--out bench/results/embedded.csv]

Each repeat times both sides one after the other, so that a busy machine disturbs both. The naive side reads the prompt
again for every draft, as a loop of calls does; the engine shares one prefill per request and remembers nothing between
requests. Rows are appended. Stops repeating after about `--seconds`, 240 by default; at least one repeat is
made and the row says how many.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from strop.server.engine.chat.template import ChatTemplate
from strop.server.engine.chat.types import TokenRequest
from strop.server.engine.transformers.attention import install
from strop.server.engine.transformers.batcher import Limits
from strop.server.engine.transformers.load import Loaded, load
from strop.server.engine.transformers.loop import Engine

QUESTION = (
    "A bakery sells rolls for 40 cents, loaves for 3 euros and cakes for 12 euros. On Monday it sold 120 rolls, "
    "35 loaves and 4 cakes; on Tuesday it sold a third fewer rolls, twice as many cakes and the same number of loaves. "
    "How much did it take on both days together? Show every step."
)
TEMPERATURE, TOP_P = 0.7, 0.95


class Timed(NamedTuple):
    """One measurement."""

    seconds: float
    peak_mb: float


class Watch(threading.Thread):
    """Samples this process's resident memory (Linux)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mb = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._over.wait(0.01):
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
            self.peak_mb = max(self.peak_mb, resident / 1e6)

    def stop(self) -> None:
        self._over.set()
        self.join()


def timed(work: Callable[[], None]) -> Timed:
    watch = Watch()
    watch.start()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    watch.stop()
    return Timed(seconds, watch.peak_mb)


def naive(loaded: Loaded, prompt: tuple[int, ...], drafts: int, tokens: int) -> None:
    """One `generate` call per draft."""
    loaded.model.set_attn_implementation("sdpa")
    ids = torch.tensor([prompt])
    for seed in range(drafts):
        torch.manual_seed(seed)
        out = loaded.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
        )
        assert out.shape[1] == len(prompt) + tokens


def engine(running: Engine, prompt: tuple[int, ...], drafts: int, tokens: int) -> None:
    """One request for all drafts."""
    install(running.loaded.model)
    request = TokenRequest(
        prompt, n=drafts, max_tokens=tokens, temperature=TEMPERATURE, top_p=TOP_P, seed=0, ignore_eos=True
    )
    results = running.submit(request).wait()
    assert all(len(result.ids) == tokens for result in results)


def percentile(values: list[float], part: float) -> float:
    """Linear interpolation between the sorted values."""
    ordered = sorted(values)
    at = part * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def compare(
    running: Engine, prompt: tuple[int, ...], drafts: int, tokens: int, repeats: int, seconds: float
) -> list[dict[str, Any]]:
    """Rows for both sides; a warm-up comes first and is not counted."""
    sides: dict[str, Callable[[int], None]] = {
        "generate loop": lambda n: naive(running.loaded, prompt, n, tokens),
        "embedded engine": lambda n: engine(running, prompt, n, tokens),
    }
    for work in sides.values():
        work(1)
    found: dict[str, list[Timed]] = {name: [] for name in sides}
    start, longest = time.monotonic(), 0.0
    for _ in range(repeats):
        began = time.monotonic()
        if longest and began - start + longest > seconds:
            break
        for name, work in sides.items():
            found[name].append(timed(lambda work=work: work(drafts)))  # type: ignore[misc]
        longest = max(longest, time.monotonic() - began)
    base = statistics.median(t.seconds for t in found["generate loop"])
    rows = []
    for name, times in found.items():
        rates = [drafts * tokens / t.seconds for t in times]
        rows.append(
            {
                "system": name,
                "drafts": drafts,
                "repeats": len(times),
                "tokens_per_s_p20": f"{percentile(rates, 0.2):.1f}",
                "tokens_per_s_p50": f"{percentile(rates, 0.5):.1f}",
                "tokens_per_s_p80": f"{percentile(rates, 0.8):.1f}",
                "ratio_p50": f"{base / statistics.median(t.seconds for t in times):.2f}",
                "peak_rss_mb": f"{max(t.peak_mb for t in times):.0f}",
            }
        )
        print(rows[-1], flush=True)
    return rows


def machine() -> str:
    """Processor and core count."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{names[0] if names else platform.machine()} x{os.cpu_count()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="as `load` takes it; the default is the embedded model")
    parser.add_argument("--drafts", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "embedded.csv")
    chosen = parser.parse_args()
    loaded = load(chosen.model)
    prompt = ChatTemplate(loaded).ids([{"role": "user", "content": QUESTION}])
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "load_average": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": loaded.name,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "prompt_tokens": len(prompt),
        "tokens": chosen.tokens,
        "repeats": chosen.repeats,
    }

    def share(drafts: int) -> float:
        """A size's part of the time; the small ones get enough for their repeats."""
        return chosen.seconds * max(0.1, drafts / sum(chosen.drafts))

    running = Engine(loaded, Limits(prefix_tokens=0))
    running.start()
    try:
        rows = [
            facts | row
            for drafts in chosen.drafts
            for row in compare(running, prompt, drafts, chosen.tokens, chosen.repeats, share(drafts))
        ]
    finally:
        running.close()
    fresh = not chosen.out.exists()
    with chosen.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
