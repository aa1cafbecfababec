"""Teacher forcing against the model's own forward pass."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

torch = pytest.importorskip("torch", reason="the embedded engine needs torch")

from strop.server.engine.chat.types import TokenRequest  # noqa: E402
from strop.server.engine.transformers.loop import Engine  # noqa: E402

PROMPT = tuple(range(10, 60))
CONTINUATIONS = [(5,), (), tuple(range(100, 180)), (7, 8, 9), (7, 8), (5, 6, 7, 8), tuple(range(40))]


def expected(original: Any, prompt: tuple[int, ...], continuation: tuple[int, ...]) -> tuple[list[float], list[float]]:
    with torch.inference_mode():
        logits = original(torch.tensor([[*prompt, *continuation]])).logits[0]
    logp = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
    picked = logp[range(len(continuation)), list(continuation)]
    return picked.tolist(), (-logp.exp() * logp).sum(-1).tolist()


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT[:1]])
async def test_scores_are_those_of_one_plain_pass(original: Any, engine: Engine, prompt: tuple[int, ...]) -> None:
    """Short and long (more than one portion) continuations, an empty one, with a cold and a warm prefix."""
    for _ in range(2):
        scores = await engine.score(prompt, CONTINUATIONS)
        for value, continuation in zip(scores.values, CONTINUATIONS, strict=True):
            logprobs, entropies = expected(original, prompt, continuation) if continuation else ([], [])
            assert value.logprobs == pytest.approx(logprobs, abs=1e-4)
            assert value.entropies == pytest.approx(entropies, abs=1e-4)
    assert scores.usage.cached_tokens == len(prompt) - 1
    assert scores.usage.prompt_tokens == len(prompt) + sum(map(len, CONTINUATIONS))


async def test_the_likeliest_tokens_of_every_place_come_back_when_asked_for(original: Any, engine: Engine) -> None:
    scores = await engine.score(PROMPT, CONTINUATIONS, top=3)
    for value, continuation in zip(scores.values, CONTINUATIONS, strict=True):
        if not continuation:
            assert value.top == ()
            continue
        with torch.inference_mode():
            logits = original(torch.tensor([[*PROMPT, *continuation]])).logits[0]
        best = logits.double().log_softmax(-1)[len(PROMPT) - 1 : -1].topk(3)
        assert [[t.id for t in row] for row in value.top] == best.indices.tolist()
        assert [t.logprob for row in value.top for t in row] == pytest.approx(best.values.flatten().tolist(), abs=1e-4)


async def test_scoring_a_draft_gives_the_numbers_it_was_made_with(engine: Engine) -> None:
    answer = await engine.generate(TokenRequest(PROMPT, n=3, seed=1, max_tokens=20, temperature=2.0, ignore_eos=True))
    scores = await engine.score(PROMPT, [result.ids for result in answer.results])
    assert scores.usage.cached_tokens == len(PROMPT) - 1
    for value, result in zip(scores.values, answer.results, strict=True):
        assert value.logprobs == pytest.approx(result.logprobs, abs=1e-4)
        assert value.entropies == pytest.approx(result.entropies, abs=1e-4)


async def test_labels_are_logprobs_of_the_next_token(original: Any, engine: Engine) -> None:
    scores = await engine.label_logprobs(PROMPT, [5, 99, 5])
    want = [expected(original, PROMPT, (token,)) for token in (5, 99, 5)]
    assert scores.logprobs == pytest.approx([w[0][0] for w in want], abs=1e-4)
    assert scores.entropy == pytest.approx(want[0][1][0], abs=1e-4)
    assert (scores.usage.prompt_tokens, scores.usage.completion_tokens) == (len(PROMPT), 0)


async def test_scoring_and_decoding_take_turns(engine: Engine) -> None:
    alone = await engine.generate(TokenRequest((1, 2, 3), max_tokens=80, seed=2, ignore_eos=True))
    handle = engine.submit(TokenRequest((1, 2, 3), max_tokens=80, seed=2, ignore_eos=True))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(engine.score, PROMPT, CONTINUATIONS)
    assert [r.ids for r in await handle.results()] == [r.ids for r in alone.results]


async def test_wrong_scoring_requests_are_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="empty"):
        await engine.score((), [(1,)])
    with pytest.raises(ValueError, match="vocabulary"):
        await engine.score((1,), [(1000,)])
    with pytest.raises(ValueError, match="context"):
        await engine.score((1,), [(1,) * 600])
