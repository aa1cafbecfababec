"""What the engine protocol promises, on real engines: embedded, vLLM and simulated. One question, the same answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import anyio
import jsonschema
import pytest

from strop.server.engine.base import Engine
from strop.server.engine.simulated.engine import SimulatedEngine
from strop.server.engine.vllm.engine import VllmEngine
from strop.strategies.kit.capabilities import Capability, needs
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Weighed
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.types import Chat, Draft, Format, Message, Prefix, Sampling, Tokens, Tool, ToolChoice, Usage
from tests.server.engine.vllm.conftest import CONTEXT, smollm2

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("default")]

QUESTIONS = (
    "What is the capital of France?",
    "Write two sentences about a dog and a cat who share a house by the sea.",
    "Count from one to ten in words.",
    "Name three colours.",
)
GREEDY = Sampling(temperature=0.0, max_tokens=32)
SEA = 1


def ask(question: int = SEA, sampling: Sampling = GREEDY, **more: Any) -> Chat:
    return Chat((Message("user", QUESTIONS[question]),), sampling, **more)


@dataclass
class Contracted:
    """An engine under test, with the checks that every op must pass."""

    engine: Engine

    async def generate(self, chat: Chat, span: Span | None = None, **more: Any) -> Generated:
        op = Generate(chat, **more)
        self.require(*needs(op))
        with anyio.fail_after(300):
            result = await self.engine.perform(op, span or Span("test", seed=1))
        assert isinstance(result, Generated)
        assert len(result.drafts) == op.n
        return result

    async def draft(self, chat: Chat, **more: Any) -> Draft:
        return (await self.generate(chat, **more)).drafts[0]

    async def weigh(self, chat: Chat, *drafts: Draft) -> Weighed:
        self.require(Capability.SCORE_TEXT)
        result = await self.engine.perform(Logprobs(chat, drafts), Span("test"))
        assert isinstance(result, Weighed)
        return result

    def require(self, *wanted: Capability) -> None:
        for capability in wanted:
            if capability not in self.engine.capabilities.offers:
                pytest.skip(f"no {capability}: {self.engine.capabilities.why_not(capability)}")

    def total(self) -> Usage:
        c = self.engine.counters()
        return Usage(prompt=c.prompt, cached=c.cached, completion=c.completion)


def billed(*bills: Usage) -> Usage:
    total = sum(bills, Usage())
    return Usage(prompt=total.prompt, cached=total.cached, completion=total.completion)


@pytest.fixture(scope="session")
async def transformers_engine() -> AsyncIterator[Engine]:
    embedded = pytest.importorskip("strop.server.engine.transformers.embedded")
    engine = embedded.TransformersEngine(smollm2(), max_model_len=CONTEXT, device="cpu")
    async with engine.running():
        yield engine


@pytest.fixture(scope="session")
async def simulated_engine() -> AsyncIterator[Engine]:
    engine = SimulatedEngine(tokens_per_second=50.0)
    async with engine.running():
        yield engine


@pytest.fixture(params=["transformers", "vllm", "simulated"])
def contracted(request: pytest.FixtureRequest) -> Contracted:
    return Contracted(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture(params=["transformers", "vllm"])
def real(request: pytest.FixtureRequest) -> Contracted:
    """Engines that run the same weights."""
    return Contracted(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture(scope="session")
def oracle() -> Any:
    """(prompt ids, token ids) to the full log-softmax rows [T, V] of transformers itself."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32).eval()

    def rows(prompt: tuple[int, ...], ids: tuple[int, ...]) -> Any:
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0]
        return logits[len(prompt) - 1 : -1].log_softmax(-1)

    return rows


def prompt_ids(chat: Chat) -> tuple[int, ...]:
    from transformers import AutoTokenizer

    from strop.server.engine.chat.template import ChatTemplate
    from strop.server.engine.vllm.instance import Tongue

    template = ChatTemplate(Tongue(AutoTokenizer.from_pretrained(smollm2()), True, ()))
    return template.ids([{"role": m.role, "content": m.content} for m in chat.messages])


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
    import math

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


# ---------------------------------------------------------------------------------- parameters behave alike


async def test_a_stop_string_ends_the_text_before_itself(real: Contracted) -> None:
    whole = await real.draft(ask())
    word = whole.text.split()[6]
    stopped = await real.draft(ask(sampling=replace(GREEDY, stop=(word,))))
    assert (stopped.finish, stopped.stop_reason) == ("stop", word)
    assert stopped.text == whole.text[: whole.text.index(word)]


async def test_a_stop_token_ends_the_text_and_is_named(real: Contracted) -> None:
    whole = await real.draft(ask())
    token = whole.tokens.ids[4]
    stopped = await real.draft(ask(sampling=replace(GREEDY, stop_token_ids=(token,))))
    at = whole.tokens.ids.index(token)
    assert (stopped.finish, stopped.stop_reason) == ("stop", token)
    assert stopped.text == "".join(whole.tokens.texts[:at])
    assert stopped.tokens.ids == whole.tokens.ids[: at + 1]


async def test_the_end_of_the_turn_is_a_stop_without_a_reason(real: Contracted) -> None:
    draft = await real.draft(ask(0, replace(GREEDY, max_tokens=100)))
    assert (draft.finish, draft.stop_reason) == ("stop", None)
    assert draft.tokens.texts[-1] == ""


async def test_at_least_min_tokens_come(real: Contracted) -> None:
    short = await real.draft(ask(0, replace(GREEDY, max_tokens=60)))
    longer = await real.draft(ask(0, replace(GREEDY, max_tokens=60, min_tokens=short.n_tokens + 5)))
    assert longer.n_tokens >= short.n_tokens + 5


@pytest.mark.parametrize("live", [True, False])
async def test_a_seed_repeats_every_draft_and_drafts_differ(contracted: Contracted, live: bool) -> None:
    chat = ask(sampling=replace(GREEDY, temperature=1.0, seed=11, max_tokens=12))

    def span() -> Span:
        return Span("same", seed=1, live=(lambda _: None) if live else None)

    first = [draft.text for draft in (await contracted.generate(chat, span(), n=3)).drafts]
    again = [draft.text for draft in (await contracted.generate(chat, span(), n=3)).drafts]
    other = [draft.text for draft in (await contracted.generate(chat.but(seed=12), span(), n=3)).drafts]
    assert first == again
    if not isinstance(contracted.engine, SimulatedEngine):
        assert len({*first, *other}) == 6


async def test_a_bias_of_a_hundred_decides(real: Contracted) -> None:
    forced = await real.draft(ask(sampling=replace(GREEDY, logit_bias=((3145, 100.0),), max_tokens=4)))
    assert forced.tokens.ids == (3145,) * 4
    whole = await real.draft(ask())
    banned = await real.draft(ask(sampling=replace(GREEDY, logit_bias=((whole.tokens.ids[0], -100.0),))))
    assert whole.tokens.ids[0] not in banned.tokens.ids


async def test_words_told_live_are_the_text(contracted: Contracted) -> None:
    told: dict[int, str] = {}

    def live(delta: Delta) -> None:
        told[delta.index] = told.get(delta.index, "") + delta.text

    chat = ask(sampling=replace(GREEDY, temperature=1.0, seed=2, stop=("the",)))
    if Capability.SEED not in contracted.engine.capabilities.offers:
        chat = chat.but(seed=None)
    result = await contracted.generate(chat, Span("live", seed=1, live=live), n=2)
    assert [told.get(i, "") for i in range(2)] == [draft.text for draft in result.drafts]


async def test_an_answer_can_be_held_to_a_schema(real: Contracted) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 20}, "sure": {"type": "boolean"}},
        "required": ["capital", "sure"],
        "additionalProperties": False,
    }
    chat = ask(0, Sampling(temperature=1.0, seed=1, max_tokens=120), format=Format("json_schema", schema=schema))
    for draft in (await real.generate(chat, n=2)).drafts:
        jsonschema.validate(json.loads(draft.text), schema)


async def test_a_tool_can_be_forced(real: Contracted) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tools = (Tool("weather", "tells the weather", parameters), Tool("clock", "tells the time"))
    for choice in (ToolChoice("required"), ToolChoice("named", "weather")):
        draft = await real.draft(ask(0, replace(GREEDY, max_tokens=80), tools=tools, tool_choice=choice))
        assert draft.finish == "tool_calls"
        assert draft.tool_calls[0].name in ("weather", "clock")
        json.loads(draft.tool_calls[0].arguments)


async def test_the_engines_agree_on_a_forced_tool(transformers_engine: Engine, vllm_engine: Engine) -> None:
    tools = (Tool("weather", "tells the weather", {"type": "object", "properties": {"city": {"type": "string"}}}),)
    chat = ask(0, replace(GREEDY, max_tokens=80), tools=tools, tool_choice=ToolChoice("required"))
    calls = []
    for engine in (transformers_engine, vllm_engine):
        calls.append((await Contracted(engine).draft(chat)).tool_calls[0])
    assert [call.name for call in calls] == ["weather", "weather"]
