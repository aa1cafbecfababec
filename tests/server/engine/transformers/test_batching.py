"""The engine as a whole: batching, forking, prefix reuse and stopping change nothing about what is generated."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio
import pytest

torch = pytest.importorskip("torch", reason="the embedded engine needs torch")

from strop.server.engine.chat.types import Grammar, TokenRequest, TokenResult  # noqa: E402
from strop.server.engine.transformers.batcher import Limits  # noqa: E402
from strop.server.engine.transformers.load import Loaded  # noqa: E402
from strop.server.engine.transformers.loop import Engine, Generation  # noqa: E402
from tests.server.engine.transformers.tiny import until  # noqa: E402

LENGTHS = (1, 3, 17, 40, 70, 100)


def prompt(length: int, salt: int = 0) -> tuple[int, ...]:
    return tuple(
        torch.randint(0, 260, (length,), generator=torch.Generator().manual_seed(length * 100 + salt)).tolist()
    )


def greedy(length: int, **settings: Any) -> TokenRequest:
    return TokenRequest(prompt(length), **{"temperature": 0.0, "max_tokens": 24, "ignore_eos": True} | settings)


async def together(engine: Engine, requests: list[TokenRequest], gap: float = 0.0) -> list[Generation]:
    found: dict[int, Generation] = {}

    async def one(i: int) -> None:
        await anyio.sleep(gap * i)
        found[i] = await engine.generate(requests[i])

    async with anyio.create_task_group() as tasks:
        for i in range(len(requests)):
            tasks.start_soon(one, i)
    return [found[i] for i in range(len(requests))]


def same(a: TokenResult, b: TokenResult) -> bool:
    """Equal tokens and text; numbers equal up to rounding."""
    assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    assert a.entropies == pytest.approx(b.entropies, abs=1e-4)
    return (a.ids, a.pieces, a.finish, a.stop_reason) == (b.ids, b.pieces, b.finish, b.stop_reason)


@pytest.mark.parametrize("length", LENGTHS)
async def test_greedy_is_what_transformers_generates(original: Any, engine: Engine, length: int) -> None:
    request = greedy(length, top_logprobs=5)
    ids = torch.tensor([request.prompt_ids])
    with torch.inference_mode():
        want = original.generate(
            ids, max_new_tokens=24, do_sample=False, eos_token_id=None, attention_mask=torch.ones_like(ids)
        )[0, length:].tolist()
        logp = original(torch.tensor([[*request.prompt_ids, *want]])).logits[0, length - 1 : -1].log_softmax(-1)
    [got] = (await engine.generate(request)).results
    assert list(got.ids) == want
    assert got.finish == "length"
    assert got.logprobs == pytest.approx(logp[range(24), want].tolist(), abs=1e-4)
    assert got.entropies == pytest.approx((-logp.exp() * logp).sum(-1).tolist(), abs=1e-4)
    assert [[t.logprob for t in top] for top in got.top] == [
        pytest.approx(r, abs=1e-4) for r in logp.topk(5).values.tolist()
    ]


async def test_a_request_does_not_notice_its_company(engine: Engine, cold: Engine) -> None:
    """Different lengths, joining and leaving at different steps, more rows than slots: always as alone."""
    requests = [greedy(n, max_tokens=5 + 7 * i) for i, n in enumerate(LENGTHS)]
    requests += [TokenRequest(prompt(n), n=3, seed=n, max_tokens=20, top_p=0.9, ignore_eos=True) for n in LENGTHS]
    alone = [await cold.generate(request) for request in requests]
    for gap in (0.0, 0.01):
        for a, b in zip(alone, await together(engine, requests, gap), strict=True):
            assert all(same(x, y) for x, y in zip(a.results, b.results, strict=True))


async def test_drafts_share_one_prefill(loaded: Loaded) -> None:
    async with Engine(loaded, Limits(rows=4, prefix_tokens=0, prefill_tokens=32)) as engine:
        before = engine.load().forward_tokens
        answer = await engine.generate(greedy(100, n=10, max_tokens=3, temperature=1.0))
        # the last token of a draft is sampled but never computed
        assert engine.load().forward_tokens - before == 100 + 10 * 2
        assert answer.usage.prompt_tokens == 100
        assert answer.usage.completion_tokens == 30


async def test_greedy_drafts_are_equal_and_sampled_drafts_differ(engine: Engine) -> None:
    results = (await engine.generate(greedy(17, n=5))).results
    assert all(same(dataclasses.replace(r, index=0), results[0]) for r in results)
    sampled = (await engine.generate(greedy(17, n=5, temperature=2.0, seed=1))).results
    assert len({r.ids for r in sampled}) == 5


async def test_a_fork_continues_as_the_draft_did(engine: Engine, cold: Engine) -> None:
    [whole] = (await engine.generate(greedy(40, max_tokens=30))).results
    for kept in (1, 13, 29):
        fork = TokenRequest((*prompt(40), *whole.ids[:kept]), temperature=0.0, max_tokens=30 - kept, ignore_eos=True)
        for at, cached in ((engine, 40 + kept - 1), (cold, 0)):
            answer = await at.generate(fork)
            assert answer.results[0].ids == whole.ids[kept:]
            assert answer.results[0].logprobs == pytest.approx(whole.logprobs[kept:], abs=1e-4)
            assert answer.usage.cached_tokens == cached


async def test_a_known_prefix_is_not_computed_again(engine: Engine) -> None:
    first = await engine.generate(greedy(70))
    before = engine.load().forward_tokens
    again = await engine.generate(greedy(70))
    assert (first.usage.cached_tokens, again.usage.cached_tokens) == (0, 69)
    assert engine.load().forward_tokens - before == 1 + 23
    assert same(again.results[0], first.results[0])
    other = await engine.generate(dataclasses.replace(greedy(70), prompt_ids=(*prompt(70)[:45], 1, 2, 3)))
    assert other.usage.cached_tokens == 45


async def test_a_seed_names_the_tokens(engine: Engine) -> None:
    request = greedy(17, n=3, temperature=1.5, seed=5)
    first = await engine.generate(request)
    again = await engine.generate(dataclasses.replace(request, n=2))
    assert [r.ids for r in again.results] == [r.ids for r in first.results[:2]]
    unseeded = dataclasses.replace(request, seed=None)
    assert (await engine.generate(unseeded)).results[0].ids != (await engine.generate(unseeded)).results[0].ids


async def test_rows_are_parked_when_the_memory_is_full(loaded: Loaded, cold: Engine) -> None:
    """Room for two rows of 128 or one of 256: long drafts take turns, and nothing changes in what they say."""
    requests = [greedy(n, max_tokens=120) for n in (40, 30, 20)]
    want = [await cold.generate(request) for request in requests]
    async with Engine(loaded, Limits(rows=4, kv_tokens=256, prefix_tokens=0)) as engine:
        got = await together(engine, requests)
    assert all(same(a.results[0], b.results[0]) for a, b in zip(want, got, strict=True))


async def test_a_long_prompt_does_not_stop_the_others(loaded: Loaded) -> None:
    """While 400 tokens are read 16 at a time, a running draft gets a token per portion."""
    async with Engine(loaded, Limits(prefill_tokens=16, prefix_tokens=0)) as engine:
        running = engine.submit(greedy(3, max_tokens=400))
        await until(lambda: bool(running.partials()[0].ids))
        before = len(running.partials()[0].ids)
        await engine.generate(greedy(400, max_tokens=1))
        assert len(running.partials()[0].ids) - before >= 400 // 16 - 1
        running.cancel()


async def test_the_context_ends_a_draft(engine: Engine) -> None:
    answer = await engine.generate(TokenRequest(prompt(500), temperature=0.0, ignore_eos=True))
    assert (len(answer.results[0].ids), answer.results[0].finish) == (12, "length")
    with pytest.raises(ValueError, match="context holds 512"):
        await engine.generate(TokenRequest(prompt(512)))


async def test_end_of_text_and_stop_ids_end_a_draft(engine: Engine, loaded: Loaded) -> None:
    [eos] = loaded.eos_ids
    [ended] = (await engine.generate(greedy(3, ignore_eos=False, logit_bias=((eos, 1e4),)))).results
    assert (ended.ids, ended.text, ended.finish, ended.stop_reason) == ((eos,), "", "stop", None)
    [late] = (await engine.generate(greedy(3, ignore_eos=False, min_tokens=4, logit_bias=((eos, 1e4),)))).results
    assert len(late.ids) == 5
    [through] = (await engine.generate(greedy(3, max_tokens=4, logit_bias=((eos, 1e4),)))).results
    assert (through.ids, through.finish) == ((eos,) * 4, "length")
    [stopped] = (await engine.generate(greedy(3, stop_token_ids=(65,), logit_bias=((65, 1e4),)))).results
    assert (stopped.ids, stopped.text, stopped.finish, stopped.stop_reason) == ((65,), "", "stop", 65)


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        (("STOP",), "ab ", "STOP"),
        (("P the", "OP"), "ab ST", "OP"),
        (("e o",), "ab STOP th", "e o"),
        (("zzz", "STOPx"), "ab STOP the other", None),
    ],
)
async def test_stop_strings_match_across_tokens(
    engine: Engine, stop: tuple[str, ...], text: str, reason: str | None
) -> None:
    """A grammar forces the text; its tokens do not line up with the stop strings."""
    forced = greedy(3, stop=stop, grammar=Grammar("choice", choices=("ab STOP the other",)))
    handle = engine.submit(forced, stream=True)
    events = [event async for event in handle.events()]
    [result] = handle.partials()
    assert (result.text, result.finish, result.stop_reason) == (text, "stop", reason)
    assert "".join(event.text for event in events) == text
    assert sum((event.ids for event in events), ()) == result.ids
    assert all(len(event.ids) == len(event.pieces) == len(event.logprobs) for event in events)
    assert [event.finish for event in events if event.finish] == ["stop"]


async def test_utf8_streams_in_whole_characters(engine: Engine) -> None:
    text = "né 😀 日本"
    handle = engine.submit(greedy(3, max_tokens=40, grammar=Grammar("choice", choices=(text,))), stream=True)
    pieces = [piece async for event in handle.events() for piece in event.pieces]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    cut = engine.submit(greedy(3, max_tokens=5, grammar=Grammar("choice", choices=(text,))), stream=True)
    assert "".join([event.text async for event in cut.events()]) == "né \ufffd"
