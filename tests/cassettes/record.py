"""Record the cassettes: one request per strategy against the embedded model, as `tests/cassettes/<strategy>.jsonl`.

    python tests/cassettes/record.py              # SmolLM2-135M-Instruct on this machine
    python tests/cassettes/record.py --model DIR  # another model
    python tests/cassettes/record.py --simulated  # no model: writes simulated_<strategy>.jsonl

`tests/strategies/test_cassettes.py` replays them without a model. Record anew when prompts or calls change.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from strop.strategies import CATALOGUE
from strop.strategies.kit import Budget, Chat, Message, Perform, Request, Sampling, run
from strop.strategies.kit.trace import Trace, to_json
from strop.strategies.testing.forms import Clerk

HERE = Path(__file__).parent


def asked(text: str, max_tokens: int) -> Chat:
    """A question whose answers stay short enough for a file."""
    return Chat((Message("system", "Be brief."), Message("user", text)), Sampling(max_tokens=max_tokens))


SUM = asked("What is 3 + 4? End with: The answer is <number>.", 40)
TALE = Chat((Message("user", "Tell me a story about a fox who learns to swim."),), Sampling(max_tokens=160))
REQUESTS = {
    "direct": Request(CATALOGUE["direct"], SUM, seed=1, choices=2, fence="fence"),
    "best_of_n": Request(CATALOGUE["best_of_n"], SUM, {"n": 4}, seed=2, fence="fence"),
    "self_consistency": Request(CATALOGUE["self_consistency"], SUM, {"n": 8}, seed=3, fence="fence"),
    "self_refine": Request(CATALOGUE["self_refine"], SUM, {"rounds": 2}, Budget(tokens=400), seed=4, fence="fence"),
    "id_sampling": Request(CATALOGUE["id_sampling"], TALE, {"first": 32, "growth": 1.5}, seed=5, fence="fence"),
    "adaptive": Request(CATALOGUE["adaptive"], SUM, {"n": 8}, seed=6, fence="fence"),
    "ioe": Request(CATALOGUE["ioe"], SUM, seed=7, fence="fence"),
    "checklist": Request(CATALOGUE["checklist"], SUM, {"n": 2, "rounds": 1}, seed=8, fence="fence"),
    "tear": Request(CATALOGUE["tear"], SUM, seed=9, fence="fence"),
    "self_check": Request(CATALOGUE["self_check"], SUM, {"n": 3}, seed=10, fence="fence"),
    "backtrack": Request(CATALOGUE["backtrack"], SUM, {"n": 3}, seed=11, fence="fence"),
    "verify_revise": Request(CATALOGUE["verify_revise"], SUM, {"by": "sum", "rounds": 2}, seed=12, fence="fence"),
    "critic_actor": Request(CATALOGUE["critic_actor"], SUM, {"n": 2}, seed=13, fence="fence"),
    "evolve_chain": Request(CATALOGUE["evolve_chain"], SUM, {"length": 3}, seed=14, fence="fence"),
    "self_polish": Request(CATALOGUE["self_polish"], SUM, {"rounds": 2}, seed=15, fence="fence"),
    "magicore": Request(CATALOGUE["magicore"], SUM, {"n": 3, "steps": "prm"}, seed=16, fence="fence"),
    "art": Request(CATALOGUE["art"], SUM, seed=17, fence="fence"),
    "debate": Request(CATALOGUE["debate"], SUM, seed=18, fence="fence"),
    "abstain": Request(CATALOGUE["abstain"], SUM, {"n": 3}, seed=19, fence="fence"),
    "recombine": Request(CATALOGUE["recombine"], SUM, {"n": 3}, seed=20, fence="fence"),
    "self_contrast": Request(CATALOGUE["self_contrast"], SUM, {"approaches": 3}, seed=21, fence="fence"),
}
ADDITION = Chat((Message("user", "What is 3 + 4?"),))
SEARCHES = {
    "beam_search": Request(CATALOGUE["beam_search"], ADDITION, {"n": 4, "width": 2}, seed=6, fence="fence"),
    "particle_filter": Request(CATALOGUE["particle_filter"], ADDITION, {"n": 4}, seed=7, fence="fence"),
    "dvts": Request(CATALOGUE["dvts"], ADDITION, {"n": 4, "width": 2}, seed=8, fence="fence"),
    "first_finish": Request(CATALOGUE["first_finish"], ADDITION, {"n": 3, "stretch": 16}, seed=9, fence="fence"),
    "ab_mcts": Request(CATALOGUE["ab_mcts"], ADDITION, {"n": 6, "batch": 2}, seed=12, fence="fence"),
    "mcts": Request(CATALOGUE["mcts"], ADDITION, {"iterations": 4, "width": 2, "rollout": 1}, seed=13, fence="fence"),
    "berry": Request(CATALOGUE["berry"], ADDITION, {"n": 4}, seed=14, fence="fence"),
    "think_longer": Request(CATALOGUE["think_longer"], ADDITION, {"waits": 2, "end": " gives"}, seed=15, fence="fence"),
    "think_less": Request(CATALOGUE["think_less"], ADDITION, {"most": 16}, seed=16, fence="fence"),
    "deepconf": Request(
        CATALOGUE["deepconf"],
        ADDITION,
        {"n": 4, "top": 3, "warmup": 2, "window": 16, "online": True},
        seed=11,
        fence="fence",
    ),
    "speculative_rejection": Request(
        CATALOGUE["speculative_rejection"], ADDITION, {"n": 6, "first": 16}, seed=10, fence="fence"
    ),
}
"""Recorded with --simulated only: they want a reward model or a better judge than the small model."""

FORMS = {
    "build": '{"questions": ["Is the sum right?", "Does it end as asked?"]}',
    "check": '{"items": [{"reason": "it is not", "met": "no"}, {"reason": "it does", "met": "yes"}]}',
    "estimate": '{"critical": [], "major": ["the sum is off"], "minor": []}',
    "ask": '{"questions": [{"question": "What is 3 more than 4?", "answered": "no"}]}',
    "plan": '{"approaches": ["count up from 3", "count up from 4", "use a number line"]}',
    "rewrite": "What is 3 + 4, in one number? End with: The answer is <number>.",
}
"""What the simulated model writes where a prompt, by its tag, asks for a form."""


@asynccontextmanager
async def embedded(model: str | None) -> AsyncIterator[Perform]:
    """The embedded engine under the server's own layers."""
    from strop.server.engine.transformers.embedded import TransformersEngine
    from strop.server.layers import POLICY, routed
    from strop.server.scoring.registry import Scoring

    engines = {POLICY: TransformersEngine(model, dtype="float32")}
    scoring = Scoring(engines)
    async with engines[POLICY].running(), scoring.running():
        yield scoring.layer(routed(engines))


@asynccontextmanager
async def simulated() -> AsyncIterator[Perform]:
    """No model at all."""
    forms = {tag: lambda *_, text=text: text for tag, text in FORMS.items()}
    yield Clerk(0.2, 0.9, forms=forms, insight=0.8, length=20)


async def record(simulate: bool, model: str | None, names: list[str]) -> None:
    """Run every request and write what happened."""
    async with simulated() if simulate else embedded(model) as perform:
        for name in names:
            trace = Trace()
            outcome = await run((REQUESTS | SEARCHES)[name], perform, observe=[trace])
            path = HERE / f"{'simulated_' if simulate else ''}{name}.jsonl"
            path.write_text("".join(to_json(line) + "\n" for line in trace.lines), encoding="utf-8")
            print(f"{path.name}: {outcome.stopped}, {outcome.bill.total.completion} tokens")  # noqa: T201


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="record the cassettes of the strategies")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--model")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or list(REQUESTS | SEARCHES if options.simulated else REQUESTS)
    anyio.run(record, options.simulated, options.model, names)


if __name__ == "__main__":
    main()
