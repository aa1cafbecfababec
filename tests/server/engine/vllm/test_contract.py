"""What the engine protocol promises, on real engines: embedded, vLLM and simulated. One question, the same answers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import anyio
import pytest

from strop.server.engine.base import Engine
from strop.server.engine.simulated.engine import SimulatedEngine
from strop.server.engine.vllm.engine import VllmEngine
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.ops import Generate, Logprobs, Weighed
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.types import Chat, Draft, Format, Message, Prefix, Tokens, Usage
from tests.server.engine.vllm.contracted import GREEDY, QUESTIONS, Contracted, ask, billed, prompt_ids

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("default")]


# ------------------------------------------------------------------------------------------------- greedy


@pytest.mark.parametrize("question", range(len(QUESTIONS)))
async def test_greedy_tokens_are_those_of_the_oracle(real: Contracted, oracle: Any, question: int) -> None:
    chat = ask(question)
    draft = await real.draft(chat)
    rows = oracle(prompt_ids(chat), draft.tokens.ids)
    assert list(draft.tokens.ids) == rows.argmax(-1).tolist()
    assert list(draft.tokens.logprobs) == pytest.approx(rows.amax(-1).tolist(), abs=2e-3)
    assert "".join(draft.tokens.texts) == draft.text
    assert len(draft.tokens) == draft.n_tokens <= 32


async def test_entropies_and_certainties_are_those_of_the_full_distribution(real: Contracted, oracle: Any) -> None:
    chat = ask(sampling=replace(GREEDY, temperature=1.0, seed=5))
    result = await real.generate(chat, n=2, want=("entropy", "certainty"))
    for draft in result.drafts:
        rows = oracle(prompt_ids(chat), draft.tokens.ids)
        entropies = -(rows.exp() * rows).sum(-1)
        certainties = -rows.mean(-1) - math.log(rows.shape[-1])
        assert list(draft.tokens.entropies) == pytest.approx(entropies.tolist(), abs=2e-3)
        assert list(draft.tokens.certainties) == pytest.approx(certainties.tolist(), abs=2e-3)


async def test_a_grammar_does_not_change_the_entropy_that_is_reported(real: Contracted, oracle: Any) -> None:
    chat = ask(format=Format("json_object"))
    draft = await real.draft(chat, want=("entropy",))
    rows = oracle(prompt_ids(chat), draft.tokens.ids)
    assert list(draft.tokens.entropies) == pytest.approx((-(rows.exp() * rows).sum(-1)).tolist(), abs=2e-3)


async def test_top_logprobs_are_the_best_of_the_full_distribution(real: Contracted, oracle: Any) -> None:
    chat = ask(sampling=replace(GREEDY, top_logprobs=5, max_tokens=6))
    draft = await real.draft(chat)
    best = oracle(prompt_ids(chat), draft.tokens.ids).topk(5)
    for row, ids, values in zip(draft.tokens.top, best.indices.tolist(), best.values.tolist(), strict=True):
        assert [token for token, _, _ in row] == ids
        assert [value for _, _, value in row] == pytest.approx(values, abs=2e-3)


# -------------------------------------------------------------------------------------------- continuation


@pytest.mark.parametrize("kept", [1, 10, 20])
async def test_a_draft_continued_from_any_token_becomes_the_same_draft(contracted: Contracted, kept: int) -> None:
    whole = await contracted.draft(ask())
    rest = await contracted.draft(ask(), prefix=Prefix(whole.cut(kept)))
    assert rest.text.startswith(whole.cut(kept).text)
    if isinstance(contracted.engine, SimulatedEngine):
        return  # its answers are drawn anew for every op
    assert rest.tokens.ids[: whole.n_tokens] == whole.tokens.ids


async def test_words_put_into_a_draft_are_kept_and_counted(contracted: Contracted) -> None:
    whole = await contracted.draft(ask())
    result = await contracted.generate(ask(), n=2, prefix=Prefix(whole.cut(5), " Wait,"))
    for draft in result.drafts:
        assert draft.text.startswith(whole.cut(5).text + " Wait,")
        assert draft.n_injected > 0
    assert result.usage.injected == result.drafts[0].n_injected


async def test_drafts_of_one_op_share_the_prompt(contracted: Contracted) -> None:
    question = " ".join(f"Colour number {i} is blue." for i in range(20))
    chat = Chat((Message("user", question),), replace(GREEDY, temperature=1.0, max_tokens=4))
    engine = contracted.engine
    before = engine._totals.cached if isinstance(engine, VllmEngine) else 0
    result = await contracted.generate(chat, n=4)
    assert (result.usage.prompt, result.usage.calls) == (result.prompt_tokens, 4)
    if isinstance(engine, VllmEngine):
        assert engine._totals.cached - before >= 3 * (result.prompt_tokens - 32)  # blocks of 32 tokens


async def test_a_cached_score_is_the_full_score(real: Contracted, oracle: Any) -> None:
    chat = ask(0)
    drafts = [Draft("Paris is the capital of France."), Draft("Bananas are yellow."), Draft("")]
    first = await real.weigh(chat, *drafts)
    again = await real.weigh(chat, *drafts)
    for a, b in zip(first.values, again.values, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=2e-3)
    assert first.values[0].mean > first.values[1].mean
    assert first.values[2].logprobs == ()


async def test_the_score_of_a_draft_is_what_the_draft_says_of_itself(real: Contracted) -> None:
    draft = await real.draft(ask(0, replace(GREEDY, temperature=1.0, seed=3, max_tokens=12)))
    weighed = (await real.weigh(ask(0), replace(draft, finish="length"))).values[0]
    assert weighed.logprobs == pytest.approx(draft.tokens.logprobs[: len(weighed.logprobs)], abs=2e-3)


async def test_the_likeliest_tokens_of_a_given_text_are_those_of_the_oracle(real: Contracted, oracle: Any) -> None:
    chat, draft = ask(0), Draft("Paris is the capital.")
    result = await real.engine.perform(Logprobs(chat, (draft,), top=3), Span("top"))
    assert isinstance(result, Weighed)
    tokens = result.values[0].tokens
    rows = oracle(prompt_ids(chat), tokens.ids)
    assert "".join(tokens.texts) == draft.text
    assert [[i for i, _, _ in row] for row in tokens.top] == rows.topk(3).indices.tolist()
    assert tokens.logprobs == pytest.approx(rows[range(len(tokens)), list(tokens.ids)].tolist(), abs=2e-3)


async def test_a_text_with_nothing_before_it_is_scored_from_its_second_token(real: Contracted, oracle: Any) -> None:
    ids = (504, 3575, 282, 4649, 314, 7042)
    chat = Chat(prompt=())
    draft = Draft("x" * 6, "length", tokens=Tokens(ids, ("x",) * 6), n_tokens=6)
    value = (await real.weigh(chat, draft)).values[0]
    rows = oracle(ids[:1], ids[1:])
    assert value.logprobs == pytest.approx([0.0, *rows[range(5), list(ids[1:])].tolist()], abs=2e-3)


# ----------------------------------------------------------------------------------------------- the bill


async def test_the_bill_is_what_the_engine_counted(contracted: Contracted) -> None:
    before = contracted.total()
    bills = [
        (await contracted.generate(ask(q, replace(GREEDY, temperature=0.9, max_tokens=9)), n=3)).usage for q in (0, 1)
    ]
    if Capability.SCORE_TEXT in contracted.engine.capabilities.offers:
        bills.append((await contracted.weigh(ask(3), Draft("Red, green and blue."), Draft("Fish."))).usage)
    assert billed(before, *bills) == contracted.total()
    if isinstance(contracted.engine, VllmEngine):
        assert contracted.engine.unbilled() == Usage()


@pytest.mark.parametrize("live", [True, False])
async def test_a_cancelled_op_is_billed_and_leaves_nothing_behind(contracted: Contracted, live: bool) -> None:
    before = contracted.total()
    words: list[Delta] = []
    span = Span("test", seed=1, live=words.append if live else None)
    chat = ask(sampling=replace(GREEDY, temperature=1.0, max_tokens=600, ignore_eos=True))
    contracted.require(Capability.IGNORE_EOS)
    with anyio.move_on_after(1.5) as scope:
        await contracted.engine.perform(Generate(chat, n=4), span)
    assert scope.cancelled_caught
    assert 0 < span.receipt.own.completion < 4 * 600
    assert billed(before, span.receipt.own) == contracted.total()
    if isinstance(contracted.engine, VllmEngine):
        assert contracted.engine.unbilled() == Usage()
    partials = span.receipt.partials()
    assert sum(draft.n_tokens for draft in partials) == span.receipt.own.completion
    assert all(draft.text for draft in partials)
    await idle(contracted.engine)


async def idle(engine: Engine) -> None:
    with anyio.fail_after(20):
        while engine.counters().running or engine.counters().waiting:  # noqa: ASYNC110
            await anyio.sleep(0.05)
    if isinstance(engine, VllmEngine):
        assert engine._lifeline.engine.llm.get_num_unfinished_requests() == 0


async def test_cancelled_drafts_free_their_places(contracted: Contracted) -> None:
    """More drafts than fit are cancelled; the next question does not wait for them."""
    long = ask(sampling=replace(GREEDY, temperature=1.0, max_tokens=900, ignore_eos=True))
    contracted.require(Capability.IGNORE_EOS)
    with anyio.move_on_after(2.0):
        await contracted.engine.perform(Generate(long, n=40), Span("long"))
    with anyio.fail_after(60):
        assert (await contracted.draft(ask(0, replace(GREEDY, max_tokens=4)))).n_tokens == 4
