"""The reward model's engine, and how ops reach it."""

from __future__ import annotations

import threading

import anyio
import pytest

pytest.importorskip("torch", reason="reward models need torch")
pytest.importorskip("transformers", reason="reward models need transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from strop.server.layers import POLICY, REWARD, capabilities, routed
from strop.server.scoring.prm import network
from strop.server.scoring.registry import Scoring
from strop.server.scoring.reward import RewardModel
from strop.server.settings import Settings
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import BadRequest, ContextTooLong, EngineUnavailable, MissingCapability, ScorerError
from strop.strategies.kit.ops import Generate, Score, Steps
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Draft, Message, ToolCall
from tests.server.scoring.rewards import QUESTION, STEPS, byte_level

CONFIG = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 260,
}
ANSWER = Draft("".join(STEPS))


def saved(folder, kind):
    torch.manual_seed(0)
    if kind == "orm":
        LlamaForSequenceClassification(LlamaConfig(**CONFIG, num_labels=1)).save_pretrained(folder)
    else:
        LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def prm(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("prm"), "rlhflow")


@pytest.fixture(scope="module")
def orm(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("orm"), "orm")


def rewarding(folder, **more):
    return RewardModel(folder, format=more.pop("format", "rlhflow"), device="cpu", **more)


async def test_every_step_gets_a_reward_and_every_token_is_billed_as_prompt(prm):
    net = network.load(prm, "rlhflow", device="cpu")
    [row] = net.lay(QUESTION, STEPS)
    model = rewarding(prm)
    async with model.running():
        span = Span("k")
        stepped = await model.perform(Steps(QUESTION, ANSWER), span)
        assert stepped.rewards == pytest.approx(net.read([row])[0], abs=1e-5)
        assert stepped.steps == tuple(STEPS)
        assert stepped.usage == span.receipt.usage
        assert (stepped.usage.prompt, stepped.usage.completion, stepped.usage.calls) == (len(row.ids), 0, 0)
        assert stepped.usage.seconds > 0
        assert model.counters().prompt == len(row.ids)


async def test_a_score_by_prm_is_the_reward_of_the_last_step_and_none_for_an_empty_draft(prm):
    async with (model := rewarding(prm)).running():
        stepped = await model.perform(Steps(QUESTION, ANSWER), Span("a"))
        scored = await model.perform(Score(QUESTION, (ANSWER, Draft("")), "prm"), Span("b"))
        empty = await model.perform(Steps(QUESTION, Draft("")), Span("c"))
    assert scored.values == (pytest.approx(stepped.rewards[-1], abs=1e-5), None)
    assert empty.rewards == ()
    assert empty.usage.prompt == 0


async def test_an_outcome_model_scores_whole_answers_tool_calls_included(orm):
    drafts = (ANSWER, Draft("", "tool_calls", (ToolCall("1", "add", '{"a": 2}'),)))
    net = network.load(orm, "orm", device="cpu")
    rows = [net.lay(QUESTION, [text])[0] for text in (ANSWER.text, 'call add({"a": 2})')]
    async with (model := rewarding(orm, format="auto")).running():
        scored = await model.perform(Score(QUESTION, drafts, "orm"), Span("k"))
        assert Capability.PRM not in model.capabilities.offers
        with pytest.raises(MissingCapability, match="use by 'orm'"):
            await model.perform(Steps(QUESTION, ANSWER), Span("k"))
    assert scored.values == pytest.approx([value for [value] in net.read(rows)], abs=1e-5)


async def test_a_process_model_gives_no_outcome_scores(prm):
    async with (model := rewarding(prm)).running():
        with pytest.raises(MissingCapability, match="use by 'prm'"):
            await model.perform(Score(QUESTION, (ANSWER,), "orm"), Span("k"))
        with pytest.raises(MissingCapability, match="only scores"):
            await model.perform(Generate(QUESTION), Span("k"))


async def test_an_answer_over_the_models_context_is_the_clients_fault(prm):
    async with (model := rewarding(prm)).running():
        with pytest.raises(ContextTooLong) as refused:
            await model.perform(Steps(QUESTION, Draft("long " * 200)), Span("k"))
    assert refused.value.code == "context_length_exceeded"
    assert isinstance(refused.value, BadRequest)


async def test_a_model_that_is_not_running_says_so(prm):
    model = rewarding(prm)
    assert not model.health().ready
    with pytest.raises(MissingCapability, match="not loaded"):
        await model.perform(Steps(QUESTION, ANSWER), Span("k"))
    async with model.running():
        assert model.health().ready
    with pytest.raises(EngineUnavailable):
        await model._score(QUESTION, [STEPS], Span("k"))


class Gate:
    """Stands in for `Network.read`: holds the first pass until it is opened, and remembers what was passed."""

    def __init__(self, read, fails=()):
        self.read, self.fails = read, fails
        self.open = threading.Event()
        self.entered = threading.Event()
        self.passes = []

    def __call__(self, net, rows):
        self.passes.append([len(row.ids) for row in rows])
        self.entered.set()
        assert self.open.wait(10)
        if len(self.passes) in self.fails:
            raise RuntimeError("out of memory")
        return self.read(net, rows)


@pytest.fixture
def gate(monkeypatch):
    held = Gate(network.Network.read)
    monkeypatch.setattr(network.Network, "read", lambda net, rows: held(net, rows))
    yield held
    held.open.set()


async def perform_all(model, drafts, gate, cancel=()):
    """Ops one after the other while the first pass is held; those in `cancel` leave before it ends."""
    spans, results, scopes = [Span(str(i)) for i in range(len(drafts))], {}, [anyio.CancelScope() for _ in drafts]

    async def one(i):
        with scopes[i]:
            try:
                results[i] = await model.perform(Steps(QUESTION, Draft(drafts[i])), spans[i])
            except ScorerError as error:
                results[i] = error

    async with model.running(), anyio.create_task_group() as group:
        for i in range(len(drafts)):
            group.start_soon(one, i)
            with anyio.fail_after(10):
                while model.counters().running <= i or not gate.entered.is_set():  # noqa: ASYNC110
                    await anyio.sleep(0.001)
        for i in cancel:
            scopes[i].cancel()
        await anyio.sleep(0.01)
        gate.open.set()
    return spans, results


async def test_ops_of_different_requests_that_wait_together_share_one_pass(prm, gate):
    _, results = await perform_all(rewarding(prm), ["1", "22", "33"], gate)
    assert [len(lengths) for lengths in gate.passes] == [1, 2]
    assert sorted(results) == [0, 1, 2]


async def test_a_pass_is_bounded_in_tokens(prm, gate):
    row = len(network.load(prm, "rlhflow", device="cpu").lay(QUESTION, ["22"])[0].ids)
    await perform_all(rewarding(prm, most_tokens=2 * row), ["1", "22", "33", "44", "55"], gate)
    assert gate.passes[1:] == [[row, row], [row, row]]


async def test_a_cancelled_op_is_billed_for_what_was_begun_and_not_computed_otherwise(prm, gate):
    model = rewarding(prm)
    spans, results = await perform_all(model, ["1", "22", "333"], gate, cancel=[0, 1])
    assert list(results) == [2]
    [first], [third] = gate.passes
    assert [span.receipt.usage.prompt for span in spans] == [first, 0, third]
    assert model.counters().prompt == first + third


async def test_a_failing_pass_fails_its_own_ops_only(prm, gate):
    gate.fails = (1,)
    _, results = await perform_all(rewarding(prm), ["1", "22"], gate)
    assert isinstance(results[0], ScorerError)
    assert "out of memory" in str(results[0])
    assert len(results[1].rewards) == 1


async def test_a_conversation_the_chat_template_refuses_is_an_error_with_its_reason(prm, tmp_path):
    folder = saved(tmp_path, "orm")
    tokenizer = byte_level()
    refusing = "{% if messages|length > 2 %}{{ raise_exception('only two turns') }}{% endif %}"
    tokenizer.chat_template = refusing + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    long = Chat((Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
    async with (model := rewarding(folder, format="orm")).running():
        with pytest.raises(ScorerError, match="only two turns"):
            await model.perform(Score(long, (ANSWER,), "orm"), Span("k"))


class Policy:
    """A policy without rewards of its own."""

    def __init__(self):
        from strop.server.engine.transformers.embedded import TransformersEngine

        self.capabilities = TransformersEngine().capabilities


async def test_ops_reach_the_reward_model_through_the_layers(prm):
    model = rewarding(prm)
    engines = {POLICY: Policy(), REWARD: model}
    layer = Scoring(engines).layer(routed(engines))
    async with model.running():
        assert Capability.PRM in capabilities(engines).offers
        stepped = await layer(Steps(QUESTION, ANSWER), Span("a"))
        scored = await layer(Score(QUESTION, (ANSWER,), "prm"), Span("b"))
    assert scored.values == pytest.approx((stepped.rewards[-1],), abs=1e-5)


@pytest.mark.parametrize(
    "op", [Steps(QUESTION, ANSWER), Score(QUESTION, (ANSWER,), "prm"), Score(QUESTION, (ANSWER,), "orm")]
)
async def test_without_a_reward_model_the_refusal_says_what_to_set(op):
    engines = {POLICY: Policy()}
    with pytest.raises(MissingCapability, match="set reward_model") as refused:
        await Scoring(engines).layer(routed(engines))(op, Span("k"))
    assert refused.value.capability == "prm"
    assert "set reward_model" in capabilities(engines).why_not(Capability.PRM)


def test_the_setting_loads_a_reward_model_beside_the_policy(prm):
    from strop.server.engine.catalogue import engines

    chosen = engines(Settings(engine="simulated", reward_model=prm, reward_format="rlhflow"))
    assert isinstance(chosen[REWARD], RewardModel)
    assert REWARD not in engines(Settings(engine="simulated"))


def test_the_setting_knows_every_format():
    from typing import get_args

    from strop.server.scoring.prm.formats import FORMATS

    assert set(get_args(Settings.model_fields["reward_format"].annotation)) == {"auto", *FORMATS}
