"""The engines for tests keep their own promises."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import anyio
import pytest

from strop.strategies.kit import Chat, Draft, Format, Message, Prefix, Sampling, Tool, ToolChoice, prompt
from strop.strategies.kit.errors import EngineError
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Score, Scored, Stepped, Steps, Verified, Verify
from strop.strategies.kit.span import Delta, Span
from strop.strategies.testing import Brain, Gated, Scripted, Simulated
from strop.strategies.testing.brain import said, truth_of
from strop.strategies.testing.shapes import fitting
from strop.strategies.testing.words import tokens_of, words


async def generate(engine: Any, op: Generate, key: str = "k", **span: Any) -> Generated:
    result = await engine(op, Span(key, **span))
    assert isinstance(result, Generated)
    return result


# ---- scripted ------------------------------------------------------------------------------------------------------


async def test_replies_are_keyed_by_tag_not_by_order(ask: Any) -> None:
    engine = Scripted({"draft": ["a", "b"], "critique": ["c"]})
    tags = ["critique", "draft", "draft"]
    texts = [(await generate(engine, Generate(replace(ask(), tag=tag)))).drafts[0].text for tag in tags]
    assert texts == ["c", "a", "b"]
    assert engine.tags == tags


async def test_an_unknown_tag_fails_with_the_key_and_the_op(ask: Any) -> None:
    with pytest.raises(
        AssertionError, match=r"no reply left for 'draft' at here#1; scripted tags: \['judge'\]; op: Gen"
    ):
        await Scripted({"judge": []})(Generate(ask()), Span("here#1"))


async def test_replies_may_be_errors_and_functions(ask: Any) -> None:
    engine = Scripted({"draft": [lambda op: f"tag {op.tag}", EngineError("no")], "judge": lambda op: [0.5]})
    assert (await generate(engine, Generate(ask()))).drafts[0].text == "tag draft"
    with pytest.raises(EngineError):
        await generate(engine, Generate(ask()))
    for _ in range(2):
        assert (await engine(Score(ask(), (Draft("x"),)), Span("s"))).values == (0.5,)


async def test_usage_live_words_and_receipts_agree(ask: Any) -> None:
    heard: list[Delta] = []
    span = Span("k", live=heard.append)
    result = await Scripted({"draft": ["one two three", "four"]})(Generate(ask("a b c"), n=2), span)
    assert isinstance(result, Generated)
    assert (result.usage.prompt, result.usage.completion, result.usage.calls) == (3, 4, 2)
    assert [(d.index, d.text) for d in heard] == [(0, "one two three"), (1, "four")]
    assert span.receipt.usage == result.usage


async def test_every_kind_of_op_can_be_scripted(ask: Any) -> None:
    draft = Draft("x")
    engine = Scripted({"judge": [[None]], "prm": [[0.1, 0.2]], "logprobs": [[-3.0]], "tests": [[True]]})
    assert (await engine(Score(ask(), (draft,)), Span("a"))).values == (None,)
    assert (await engine(Steps(ask(), draft), Span("b"))).rewards == (0.1, 0.2)
    assert (await engine(Logprobs(ask(), (draft,)), Span("c"))).values[0].total == -3.0
    assert (await engine(Verify(ask(), (draft,), "tests"), Span("d"))).verdicts[0].ok is True
    assert engine.unused() == {}


# ---- gated ---------------------------------------------------------------------------------------------------------


async def test_an_open_gate_lets_ops_through_and_counts_them(ask: Any) -> None:
    gate = Gated(Scripted({"draft": ["a", EngineError("no")]}))
    gate.open()
    await gate(Generate(ask()), Span("k"))
    with pytest.raises(EngineError):
        await gate(Generate(ask()), Span("k"))
    assert (gate.started, gate.finished, gate.failed, gate.cancelled, gate.in_flight) == (2, 1, 1, 0, 0)


async def test_an_op_held_after_its_work_has_cost_what_it_costs(ask: Any) -> None:
    gate, span = Gated(Scripted({"draft": ["a b"]}), when="after"), Span("k")
    with anyio.move_on_after(0.01):
        await gate(Generate(ask()), span)
    assert (gate.cancelled, span.receipt.usage.completion) == (1, 2)


# ---- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "a", " a  b\n\nc ", "\n\n", "x\t\ny  "])
def test_words_join_to_the_text_they_came_from(text: str) -> None:
    assert "".join(words(text)) == text
    assert len(tokens_of(text)) == len(words(text))


# ---- the simulated model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "answer"),
    [("What is 17 + 25?", "42"), ("2+3*4-1", "13"), ("Is -3 - 4 odd?", "-7"), ("What is 10 - 4 - 3?", "3")],
)
def test_sums_are_computed(question: str, answer: str) -> None:
    assert truth_of(question) == answer


def test_other_questions_have_a_stable_answer() -> None:
    assert truth_of("Who wrote Faust?") == truth_of("Who wrote Faust?")
    assert truth_of("Who wrote Faust?") != truth_of("Who wrote Emma?")


async def test_draws_depend_on_seed_and_index_and_can_be_repeated(ask: Any) -> None:
    op = Generate(ask(seed=5), n=3)
    first, again = [await generate(Simulated(), op, key) for key in ("a", "b")]
    assert first.drafts == again.drafts
    assert len({draft.text for draft in first.drafts}) == 3
    other = await generate(Simulated(), Generate(ask(seed=6), n=3))
    assert other.drafts != first.drafts
    unseeded = [await generate(Simulated(), Generate(ask()), key) for key in ("a", "b", "a")]
    assert unseeded[0].drafts == unseeded[2].drafts != unseeded[1].drafts


async def test_at_temperature_zero_all_drafts_are_the_same(ask: Any) -> None:
    result = await generate(Simulated(), Generate(ask(temperature=0.0, seed=5), n=3))
    assert len({draft.text for draft in result.drafts}) == 1


async def test_limits_and_stop_words_are_honoured(ask: Any) -> None:
    whole = (await generate(Simulated(), Generate(ask(seed=1)))).drafts[0]
    cut = (await generate(Simulated(), Generate(ask(seed=1, max_tokens=5)))).drafts[0]
    assert (cut.n_tokens, cut.finish) == (5, "length")
    assert whole.text.startswith(cut.text)
    stopped = (await generate(Simulated(), Generate(ask(seed=1, stop=(" of",))))).drafts[0]
    assert (stopped.finish, stopped.stop_reason, " of" in stopped.text) == ("stop", " of", False)


async def test_a_continued_draft_is_the_whole_turn(ask: Any) -> None:
    whole = (await generate(Simulated(), Generate(ask(seed=1)))).drafts[0]
    resumed = (await generate(Simulated(), Generate(ask(seed=1), prefix=Prefix(whole.cut(7))))).drafts[0]
    assert resumed == whole
    shaken = await generate(Simulated(), Generate(ask(seed=1), prefix=Prefix(whole.cut(7), "\n\nWait!\n\n")))
    draft = shaken.drafts[0]
    assert draft.text.startswith(whole.cut(7).text + "\n\nWait!\n\n")
    assert draft.injected == ((7, 10),)
    assert said(draft.text) is not None
    assert shaken.usage.injected == 3
    assert shaken.usage.completion == draft.n_tokens - 10


async def test_words_come_live_and_a_cancelled_draft_costs_what_was_said(ask: Any) -> None:
    heard: list[Delta] = []
    span = Span("k", live=heard.append)
    with anyio.move_on_after(0.05):
        await Simulated(length=5000, pace=0.002)(Generate(ask()), span)
    assert 0 < len(heard) < 100
    assert span.receipt.usage.completion == len(heard)
    [partial] = span.receipt.partials()
    assert partial.text == "".join(delta.text for delta in heard)


async def test_wanted_numbers_come_with_the_drafts_and_others_do_not(ask: Any) -> None:
    op = Generate(ask(top_logprobs=3), want=("certainty", "entropy", "logprobs"))
    draft = (await generate(Simulated(), op)).drafts[0]
    columns = (draft.tokens.logprobs, draft.tokens.entropies, draft.tokens.certainties, draft.tokens.top)
    assert [len(column) for column in columns] == [draft.n_tokens] * 4
    assert all(len(top) == 3 for top in draft.tokens.top)
    plain = (await generate(Simulated(), Generate(ask()))).drafts[0]
    assert (plain.tokens.logprobs, plain.tokens.top) == ((), ())


async def test_sure_drafts_are_more_often_right(ask: Any) -> None:
    engine = Simulated(0.5, 0.8)
    right, wrong = [], []
    for i in range(400):
        question = f"What is {i} + 1?"
        draft = (await generate(engine, Generate(ask(question), want=("certainty", "logprobs")))).drafts[0]
        (right if engine.brain.is_right(question, draft.text) else wrong).append(draft)
    for measure in ("mean_logprob", "certainty"):
        pairs = [getattr(a, measure) > getattr(b, measure) for a in right for b in wrong]
        assert abs(sum(pairs) / len(pairs) - 0.8) < 0.08


async def test_drafts_of_one_question_stand_and_fall_together_as_far_as_spread_says(ask: Any) -> None:
    for spread in (0.0, 0.5, 1.0):
        brain = Brain(0.6, spread=spread)
        agree = 0
        for i in range(1500):
            question = f"What is {i} + 1?"
            agree += sum(brain.answer(question, None, key) == truth_of(question) for key in ("a", "b")) == 2
        assert abs(agree / 1500 - (0.36 + 0.24 * spread)) < 4 * 0.0129


async def test_focus_decides_how_far_errors_agree() -> None:
    for focus, share in ((0.0, 0.25), (1.0, 0.48), (9.0, 0.998)):
        brain = Brain(0.0, focus=focus)
        wrong = [brain.answer("2 + 2", None, str(i)) for i in range(1500)]
        assert "4" not in wrong
        assert abs(wrong.count("5") / 1500 - share) < 0.05


async def test_scores_tell_right_from_wrong_with_the_judges_taste(ask: Any) -> None:
    good, bad = Draft("\\boxed{4}"), Draft("\\boxed{5}")
    for taste in (0.5, 0.8, 1.0):
        engine, wins = Simulated(taste=taste), 0
        for i in range(1500):
            scored = await engine(Score(ask(), (bad, good)), Span(f"s{i}"))
            assert isinstance(scored, Scored)
            low, high = scored.values
            assert low is not None
            assert high is not None
            wins += high > low
        assert abs(wins / 1500 - taste) < 4 * 0.013


async def test_comparisons_of_equally_good_drafts_are_coin_flips(ask: Any) -> None:
    engine = Simulated(taste=1.0)
    drafts = (Draft("\\boxed{4}"), Draft("so \\boxed{4}"))
    firsts = [(await engine(Score(ask(), drafts, "pairwise"), Span(f"s{i}"))).values[0] for i in range(400)]
    assert 0.4 < sum(firsts) / 400 < 0.6


async def test_steps_after_the_first_error_get_low_rewards(ask: Any) -> None:
    engine = Simulated(taste=1.0)
    right, wrong = Draft("a\n\nb\n\n\\boxed{4}"), Draft("a\n\nb\n\n\\boxed{5}")
    stepped = [await engine(Steps(ask(), draft), Span("s")) for draft in (right, wrong)]
    assert all(isinstance(s, Stepped) and len(s.rewards) == len(s.steps) == 3 for s in stepped)
    assert min(stepped[0].rewards) >= 0.6
    assert stepped[1].rewards[-1] < 0.4


class Fence:
    fence = "f"


@pytest.mark.parametrize(("answer", "verdict"), [(4, "correct"), (5, "wrong")])
async def test_critics_and_judges_answer_in_the_form_they_are_asked_for(ask: Any, answer: int, verdict: str) -> None:
    engine = Simulated(taste=1.0)
    given = {"question": "What is 2 + 2?", "candidate": f"\\boxed{{{answer}}}"}
    critique = prompt(Fence(), "self_refine/critique", **given)
    assert (await generate(engine, Generate(critique))).drafts[0].text.endswith(f"VERDICT: {verdict}")
    form = "".join(
        f"<{name} f>\n{text}\n</{name} f>\n"
        for name, text in [("question", "What is 2 + 2?"), ("first", given["candidate"]), ("second", "\\boxed{9}")]
    )
    replies = {"A or B": ("A", "AB"), "Yes or No": ("Yes", "No"), "SCORE: <number>": ("SCORE: 8", "SCORE: 3 SCORE: 4")}
    for ending, (good, bad) in replies.items():
        chat = Chat((Message("user", form + ending),), answers=False)
        text = (await generate(engine, Generate(chat))).drafts[0].text
        assert text in (good if answer == 4 else bad)


async def test_revisions_keep_and_repair_as_often_as_they_should(ask: Any) -> None:
    engine = Simulated(confidence=0.7, insight=0.2)
    for answer, rate in ((4, 0.7), (5, 0.2)):
        given = {"candidate": f"\\boxed{{{answer}}}", "critique": "no"}
        chat = ask("What is 2 + 2?").followed_by(prompt(Fence(), "self_refine/revise", **given))
        texts = [(await generate(engine, Generate(chat), f"k{i}")).drafts[0].text for i in range(1000)]
        assert abs(sum(said(text) == "4" for text in texts) / 1000 - rate) < 0.06


async def test_asked_for_json_it_answers_json(ask: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}, "required": ["n"]}
    question = replace(ask("What is 2 + 2?"), format=Format("json_schema", "x", schema))
    draft = (await generate(Simulated(skill=1.0), Generate(question))).drafts[0]
    assert json.loads(draft.text) == {"n": 4}
    assert said(draft.text) == "4"
    broken = (await generate(Simulated(fluency=0.0), Generate(question))).drafts[0]
    verified = await Simulated()(Verify(question, (draft, broken), "json_schema", {"schema": schema}), Span("v"))
    assert isinstance(verified, Verified)
    assert [v.ok for v in verified.verdicts] == [True, False]


async def test_offered_tools_are_called_until_a_result_is_there(ask: Any) -> None:
    tool = Tool("look", "", {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]})
    question = replace(ask("What is 2 + 2?"), tools=(tool,))
    draft = (await generate(Simulated(skill=1.0), Generate(question))).drafts[0]
    assert (draft.finish, draft.tool_calls[0].name, draft.tool_calls[0].arguments) == ("tool_calls", "look", '{"x": 4}')
    answered = question.then(draft.message, Message("tool", "4", tool_call_id=draft.tool_calls[0].id))
    assert (await generate(Simulated(), Generate(answered))).drafts[0].tool_calls == ()
    silent = replace(question, tool_choice=ToolChoice("none"))
    assert (await generate(Simulated(), Generate(silent))).drafts[0].tool_calls == ()


def test_a_fitting_value_follows_references_and_choices() -> None:
    schema = {
        "$defs": {"p": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "people": {"type": "array", "items": {"$ref": "#/$defs/p"}}},
    }
    assert fitting(schema, "Ann") == {"kind": "a", "people": [{"name": "Ann"}]}


def test_a_chat_without_sampling_limits_says_about_length_words() -> None:
    brain = Brain(length=100)
    counts = [len(words(brain.say(Chat((Message("user", "q"),), Sampling()), str(i)))) for i in range(200)]
    assert 90 < sum(counts) / 200 < 110
    assert min(counts) >= 45
    assert max(counts) <= 155
