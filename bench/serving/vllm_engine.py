"""The vLLM engine against vLLM itself, and what the prefix cache and the entropy channel cost and save.

    python bench/serving/vllm_engine.py [--model FOLDER] [--drafts 8] [--tokens 32] [--repeats 3] [--quick]

Every repeat times all cases one after the other, so that a busy machine disturbs them alike; medians are reported.
Greedy drafts are used where two sides must do the same work. Appends to bench/results/vllm.csv. The file is not called
vllm.py because Python would then import it instead of vLLM.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio

from strop.server.engine.transformers.load import load
from strop.server.engine.vllm.engine import VllmEngine
from strop.strategies.kit.ops import Generate, Logprobs
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Draft, Message, Prefix, Sampling

RESULTS = Path(__file__).parent.parent / "results" / "vllm.csv"
FACT = "The lighthouse keeper of Skagen wrote down the weather every morning before the boats went out. "
Case = Callable[[], Awaitable[int]]


class Cases:
    """Pieces of work; each returns how many tokens it made or scored."""

    def __init__(self, engine: VllmEngine, drafts: int, tokens: int) -> None:
        self.engine, self.drafts, self.tokens = engine, drafts, tokens
        self.round = 0

    def chat(self, words: int = 40) -> Chat:
        """A question that no earlier round asked, so that nothing of it is cached."""
        text = f"Case {self.round}. " + FACT * (words // 16) + "What did he write?"
        return Chat((Message("user", text),), Sampling(0.0, max_tokens=self.tokens, ignore_eos=True))

    async def strop(self, want: tuple[str, ...] = ()) -> int:
        """Drafts through our engine."""
        self.round += 1
        result: Any = await self.engine.perform(Generate(self.chat(), n=self.drafts, want=want), Span("bench"))
        return sum(draft.n_tokens for draft in result.drafts)

    async def with_entropy(self) -> int:
        """The same, with exact entropies."""
        return await self.strop(("entropy",))

    async def bare(self) -> int:
        """The same drafts from AsyncLLM without strop."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        self.round += 1
        instance = self.engine._lifeline.engine
        ids = list(instance.translator.request(Generate(self.chat())).request.prompt_ids)
        made: list[int] = []

        async def one(index: int) -> None:
            sampling = SamplingParams(
                temperature=0.0, max_tokens=self.tokens, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY
            )
            async for output in instance.llm.generate(tokens_input(ids), sampling, f"bare-{self.round}-{index}"):
                made.append(len(output.outputs[0].token_ids))

        async with anyio.create_task_group() as group:
            for index in range(self.drafts):
                group.start_soon(one, index)
        return sum(made)

    async def fork(self, *, cached: bool) -> int:
        """Continue one long draft in several ways; `cached` leaves it in the prefix cache."""
        self.round += 1
        chat = self.chat(words=480)
        result: Any = await self.engine.perform(Generate(chat), Span("bench"))
        if not cached:
            await self.engine._lifeline.engine.llm.reset_prefix_cache()
        prefix = Prefix(replace(result.drafts[0], finish="length"), " And then")
        began = perf_counter()
        again: Any = await self.engine.perform(Generate(chat.but(max_tokens=4), prefix=prefix), Span("bench"))
        self.inner = perf_counter() - began
        return int(again.usage.completion)

    async def score(self, *, cached: bool) -> int:
        """Score one short answer to a long question."""
        self.round += 1
        chat = self.chat(words=480)
        await self.engine.perform(Generate(chat.but(max_tokens=1)), Span("bench"))
        if not cached:
            await self.engine._lifeline.engine.llm.reset_prefix_cache()
        began = perf_counter()
        await self.engine.perform(Logprobs(chat, (Draft("He wrote down the wind and the waves."),)), Span("bench"))
        self.inner = perf_counter() - began
        return 9


async def measure(cases: Cases, repeats: int) -> list[dict[str, Any]]:
    """A row per case. Forks and scores are timed inside, without their preparation."""
    named: dict[str, tuple[Case, bool]] = {
        "bare_vllm": (cases.bare, False),
        "strop": (cases.strop, False),
        "strop_entropy": (cases.with_entropy, False),
        "fork_cached": (lambda: cases.fork(cached=True), True),
        "fork_cold": (lambda: cases.fork(cached=False), True),
        "score_cached": (lambda: cases.score(cached=True), True),
        "score_cold": (lambda: cases.score(cached=False), True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in named}
    tokens: dict[str, int] = {}
    await cases.strop()  # warm up
    for _ in range(repeats):
        for name, (case, inside) in named.items():
            began = perf_counter()
            tokens[name] = await case()
            seconds[name].append(cases.inner if inside else perf_counter() - began)
    return [
        {
            "case": name,
            "drafts": 1 if named[name][1] else cases.drafts,
            "tokens": tokens[name],
            "median_s": round(statistics.median(times), 4),
            "best_s": round(min(times), 4),
            "worst_s": round(max(times), 4),
            "repeats": repeats,
        }
        for name, times in seconds.items()
    ]


async def main(args: argparse.Namespace) -> None:
    """Boot, measure, append."""
    import vllm

    began = perf_counter()
    engine = VllmEngine(args.model, max_model_len=2048, max_num_seqs=64)
    async with engine.running():
        print(f"booted in {perf_counter() - began:.1f} s")
        rows = await measure(Cases(engine, args.drafts, args.tokens), args.repeats)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    RESULTS.parent.mkdir(exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "vllm", "machine", "date"])
        if new:
            writer.writeheader()
        for row in rows:
            print("  ".join(f"{name}={value}" for name, value in row.items()))
            writer.writerow({**row, "vllm": vllm.__version__, "machine": machine, "date": datetime.now(UTC).date()})


def default_model() -> str:
    """The folder of the embedded default model."""
    return str(load().model.config._name_or_path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; default: the embedded SmolLM2-135M-Instruct")
    parser.add_argument("--drafts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one repeat of 4 drafts of 8 tokens")
    given = parser.parse_args()
    if given.quick:
        given.drafts, given.tokens, given.repeats = 4, 8, 1
    given.model = given.model or default_model()
    anyio.run(main, given)
