"""What the simulated model says, and that every parameter of a request shapes it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from strop.server.engine.simulated import SimulatedEngine
from strop.server.engine.simulated.instances import instance
from strop.server.engine.simulated.tokenizer import decoded, id_of, ids_of, pieces, tokens_of
from strop.strategies.kit.errors import BadRequest, ContextTooLong
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Weighed
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Draft, Format, Message, Prefix, Sampling, Tool, ToolChoice

WANT = ("certainty", "entropy", "logprobs", "tokens")
WEATHER = Tool("weather", "Weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})


def ask(text: str, **sampling: Any) -> Chat:
    return Chat((Message("user", text),), Sampling(**sampling))


async def drafts(
    chat: Chat, n: int = 1, *, prefix: Prefix | None = None, want: tuple[str, ...] = WANT, **engine: Any
) -> tuple[Draft, ...]:
    result = await SimulatedEngine(**engine).perform(Generate(chat, n, prefix, want), Span("test#1"))
    assert isinstance(result, Generated)
    return result.drafts


async def draft(chat: Chat, **more: Any) -> Draft:
    return (await drafts(chat, **more))[0]


# ------------------------------------------------------------------------------------------- tokenizer


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_comes_back_from_its_token_ids(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert decoded(ids_of(text)) == text


def test_an_id_that_stands_for_nothing_is_a_bad_request() -> None:
    for id_ in (-1, 5, 16, 10**12):
        with pytest.raises(BadRequest):
            decoded((id_,))


# ------------------------------------------------------------------------------------------ determinism


async def test_the_same_seed_says_the_same_and_another_seed_says_something_else() -> None:
    first, again, other = [await draft(ask("Why?", seed=seed)) for seed in (1, 1, 2)]
    assert first == again
    assert first.text != other.text


async def test_drafts_of_one_request_differ_unless_the_temperature_is_zero() -> None:
    assert len({d.text for d in await drafts(ask("Why?", seed=1), 4)}) == 4
    assert len({d.text for d in await drafts(ask("Why?", seed=1, temperature=0.0), 4)}) == 1


async def test_requests_without_a_seed_get_different_drafts_in_a_fixed_order() -> None:
    async def two() -> list[str]:
        engine = SimulatedEngine()
        results = [await engine.perform(Generate(ask("Why?")), Span("a#1")) for _ in range(2)]
        return [r.drafts[0].text for r in results if isinstance(r, Generated)]

    first, second = await two()
    assert first != second
    assert [first, second] == await two()


async def test_a_fence_word_does_not_change_a_greedy_verdict_but_the_candidate_does() -> None:
    def verdict(fence: str, candidate: str) -> Chat:
        text = f"<question {fence}>\nWhat is 2+2?\n</question {fence}>\n\n<candidate {fence}>\n{candidate}\n"
        return ask(f"{text}</candidate {fence}>\n\nReply with one word: Yes or No.", temperature=0.0, max_tokens=1)

    said = [(await draft(verdict(fence, r"\boxed{4}"), taste=1.0)).text for fence in ("aa", "bb")]
    assert said == ["Yes", "Yes"]
    assert (await draft(verdict("aa", r"\boxed{5}"), taste=1.0)).text == "No"


# ----------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Reply with exactly: pong", "pong"),
        ("say 'hello there'.", "hello there"),
        ("Please repeat after me: I am a fish.", "I am a fish"),
        ("Respond with only the word STOP", "STOP"),
    ],
)
async def test_simple_instructions_are_followed_to_the_letter(question: str, answer: str) -> None:
    assert (await draft(ask(question))).text == answer


@pytest.mark.parametrize(("question", "sum_"), [("2+2", 4), ("what is 17*3", 51), ("What is 6 times 7?", 42)])
async def test_a_sum_is_answered_right_with_skill_one_and_wrong_with_skill_zero(question: str, sum_: int) -> None:
    assert f"boxed{{{sum_}}}" in (await draft(ask(question), skill=1.0)).text
    assert f"boxed{{{sum_}}}" not in (await draft(ask(question), skill=0.0)).text


async def test_the_share_of_right_drafts_is_the_skill() -> None:
    said = await drafts(ask("What is 17*3?", seed=5), 600, want=(), skill=0.7)
    assert sum("boxed{51}" in d.text for d in said) / 600 == pytest.approx(0.7, abs=0.06)


async def test_a_raw_prompt_may_be_text_or_token_ids() -> None:
    text = await draft(Chat(prompt="What is 2+2?", sampling=Sampling(seed=1)))
    ids = await draft(Chat(prompt=ids_of("What is 2+2?"), sampling=Sampling(seed=1)))
    assert text == ids


# ------------------------------------------------------------------------------------ lengths and stops


@given(st.integers(1, 60), st.integers(0, 80), st.booleans())
@settings(max_examples=25, deadline=None)
def test_lengths_are_honoured_in_tokens(most: int, least: int, ignore: bool) -> None:
    from anyio import run

    least = min(least, most)
    found = run(lambda: draft(ask("Why?", seed=1, max_tokens=most, min_tokens=least, ignore_eos=ignore)))
    assert least <= found.n_tokens <= most
    assert (found.finish == "length") is (ignore or found.n_tokens == most)
    assert len(found.tokens) == found.n_tokens


async def test_a_stop_string_ends_the_text_before_it_and_is_named() -> None:
    found = await draft(ask("Why?", seed=1, stop=("never said", "tion")))
    assert "tion" not in found.text
    assert (found.finish, found.stop_reason) == ("stop", "tion")
    assert "".join(found.tokens.texts) == found.text


async def test_a_stop_string_within_min_tokens_does_not_count() -> None:
    found = await draft(ask("Why?", seed=1, stop=("tion",), min_tokens=12))
    assert found.text.count("tion") == 1
    assert found.n_tokens >= 12


async def test_a_stop_token_id_ends_the_text_and_is_named() -> None:
    found = await draft(ask("Why?", seed=1, stop_token_ids=(id_of("\n\n"),)))
    assert "\n" not in found.text
    assert (found.finish, found.stop_reason) == ("stop", id_of("\n\n"))


async def test_a_stop_beyond_max_tokens_is_not_reached() -> None:
    found = await draft(ask("Why?", seed=1, stop=("Step 2",), max_tokens=3))
    assert (found.finish, found.stop_reason, found.n_tokens) == ("length", None, 3)


async def test_a_bias_of_minus_100_bans_a_token_and_of_plus_100_forces_it() -> None:
    banned = await draft(ask("Why?", seed=1, logit_bias=((id_of("Step"), -100.0),)))
    assert id_of("Step") not in banned.tokens.ids
    forced = await draft(ask("Why?", seed=1, max_tokens=4, logit_bias=((id_of(" no"), 100.0),)))
    assert forced.text == " no no no no"


async def test_biases_between_act_now_and_then() -> None:
    found = await draft(ask("Why?", seed=1, logit_bias=((id_of(" no"), 9.0),)))
    assert 0 < found.tokens.ids.count(id_of(" no")) < found.n_tokens


async def test_what_does_not_fit_the_context_is_refused_with_the_numbers() -> None:
    with pytest.raises(ContextTooLong) as refused:
        await draft(ask("word " * 60, max_tokens=10), context=64)
    assert "64" in refused.value.message
    with pytest.raises(ContextTooLong):
        await draft(ask("Hi", max_tokens=65), context=64)
    assert (await draft(ask("Hi", ignore_eos=True), context=64)).n_tokens < 64


# ---------------------------------------------------------------------------------------------- numbers


async def test_every_column_has_one_plausible_entry_per_token() -> None:
    found = await draft(ask("Why?", seed=1, top_logprobs=5))
    tokens = found.tokens
    assert "".join(tokens.texts) == found.text
    assert {len(c) for c in (tokens.ids, tokens.logprobs, tokens.entropies, tokens.certainties, tokens.top)} == {
        found.n_tokens
    }
    for id_, text, logprob, top in zip(tokens.ids, tokens.texts, tokens.logprobs, tokens.top, strict=True):
        assert (id_, text, logprob) == top[0]
        assert [p for _, _, p in top] == sorted((p for _, _, p in top), reverse=True)
        assert sum(math.exp(p) for _, _, p in top) <= 1.0 + 1e-9
        assert len({i for i, _, _ in top}) == len(top) == 5
    assert all(0.0 < entropy < math.log(32_768) for entropy in tokens.entropies)


async def test_scoring_a_text_gives_the_numbers_it_was_generated_with() -> None:
    engine, chat = SimulatedEngine(), ask("Why?", seed=1)
    made = await engine.perform(Generate(chat, 2, want=WANT), Span("a#1"))
    assert isinstance(made, Generated)
    bare = tuple(Draft(d.text) for d in made.drafts)
    weighed = await engine.perform(Logprobs(chat, bare), Span("a#2"))
    assert isinstance(weighed, Weighed)
    assert [v.logprobs for v in weighed.values] == [d.tokens.logprobs for d in made.drafts]
    assert [v.entropies for v in weighed.values] == [d.tokens.entropies for d in made.drafts]


async def test_right_drafts_are_surer_as_often_as_the_taste_says() -> None:
    certain: dict[bool, list[float]] = {True: [], False: []}
    engine = SimulatedEngine(skill=0.5, taste=0.8, length=12)
    for i in range(150):
        result = await engine.perform(Generate(ask(f"What is {i}+{i}?", seed=i), want=("certainty",)), Span("a#1"))
        assert isinstance(result, Generated)
        certain[f"boxed{{{2 * i}}}" in result.drafts[0].text].append(result.drafts[0].certainty or 0.0)
    pairs = [a > b for a in certain[True] for b in certain[False]]
    assert sum(pairs) / len(pairs) == pytest.approx(0.8, abs=0.07)


async def test_a_verdict_puts_the_other_label_next() -> None:
    chat = ask("<candidate f>\nx\n</candidate f>\nYes or No.", temperature=0.0, max_tokens=1, top_logprobs=20)
    (top,) = (await draft(chat)).tokens.top
    assert {text for _, text, _ in top[:2]} == {"Yes", "No"}


# --------------------------------------------------------------------------------------------- prefixes


async def test_a_prefix_is_continued_token_by_token_and_the_draft_is_the_whole_turn() -> None:
    chat = ask("Why?", seed=1)
    whole = await draft(chat)
    continued = await draft(chat, prefix=Prefix(whole.cut(9)))
    assert continued.text == whole.text
    assert continued.tokens.ids == whole.tokens.ids
    assert continued.n_tokens == whole.n_tokens


async def test_injected_tokens_are_marked_and_counted() -> None:
    chat = ask("Why?", seed=1)
    start = (await draft(chat)).cut(9)
    result = await SimulatedEngine().perform(Generate(chat, 2, Prefix(start, " Wait,"), WANT), Span("a#1"))
    assert isinstance(result, Generated)
    count = len(pieces(" Wait,"))
    for continued in result.drafts:
        assert continued.text.startswith(start.text + " Wait,")
        assert continued.injected == ((9, 9 + count),)
        assert "".join(continued.tokens.texts) == continued.text
        assert continued.tokens.logprobs[:9] == start.tokens.logprobs
    assert result.usage.injected == count
    assert result.usage.completion == sum(d.n_tokens - 9 - count for d in result.drafts)


async def test_a_prefix_without_tokens_is_cut_into_tokens() -> None:
    continued = await draft(ask("Why?", seed=1), prefix=Prefix(Draft("Well then.")))
    assert continued.text.startswith("Well then.")
    assert continued.tokens.ids[:4] == tokens_of("Well then.").ids


# ----------------------------------------------------------------------------------- tools and formats


async def test_tools_are_called_once_and_then_answered_from() -> None:
    chat = replace(ask("Weather in Rome?"), tools=(WEATHER,))
    called = await draft(chat)
    assert (called.finish, called.text, called.tool_calls[0].name) == ("tool_calls", "", "weather")
    Draft202012Validator(WEATHER.parameters).validate(json.loads(called.tool_calls[0].arguments))
    after = chat.then(called.message, Message("tool", "sunny", tool_call_id=called.tool_calls[0].id))
    assert (await draft(after)).tool_calls == ()
    assert (await draft(replace(after, tool_choice=ToolChoice("required")))).tool_calls


async def test_tool_choice_none_and_named_are_obeyed() -> None:
    chat = replace(ask("Weather in Rome?"), tools=(Tool("other"), WEATHER))
    assert (await draft(replace(chat, tool_choice=ToolChoice("none")))).tool_calls == ()
    named = await draft(replace(chat, tool_choice=ToolChoice("named", "weather")))
    assert (named.tool_calls[0].name, named.finish) == ("weather", "stop")
    with pytest.raises(BadRequest):
        await draft(replace(chat, tool_choice=ToolChoice("named", "nobody")))


async def test_a_call_that_is_too_long_is_cut_by_length() -> None:
    found = await draft(replace(ask("Weather?", max_tokens=4), tools=(WEATHER,)))
    assert (found.finish, found.n_tokens) == ("length", 4)


async def test_json_formats_give_valid_json_with_the_answer_in_it() -> None:
    schema = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
    chat = replace(ask("What is 2+2?"), format=Format("json_schema", "sum", schema, strict=True))
    assert json.loads((await draft(chat, skill=1.0)).text) == {"total": 4}
    assert isinstance(json.loads((await draft(replace(chat, format=Format("json_object")))).text), dict)


async def test_filler_after_json_is_blank() -> None:
    chat = replace(ask("What is 2+2?", min_tokens=50), format=Format("json_object"))
    assert json.loads((await draft(chat)).text)


SCALARS = st.sampled_from(
    [
        {"type": "string", "minLength": 3, "maxLength": 5},
        {"type": "string", "format": "date-time"},
        {"type": "string", "pattern": "^[a-z]+$"},
        {"type": "integer", "minimum": 7, "maximum": 9},
        {"type": "integer", "exclusiveMinimum": 0, "multipleOf": 5},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "maximum": -3},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["red", 3, None]},
        {"const": {"a": [1]}},
        {"type": ["integer", "null"]},
        {},
        True,
    ]
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(
            lambda properties, closed: {
                "type": "object",
                "properties": properties,
                "required": sorted(properties),
                "additionalProperties": not closed,
            },
            st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
            st.booleans(),
        ),
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 3)),
        st.builds(lambda *options: {"anyOf": list(options)}, inner, inner),
        st.builds(lambda item: {"$defs": {"x": True}, "prefixItems": [item], "minItems": 1, "type": "array"}, inner),
    ),
    max_leaves=6,
)


@given(SCHEMAS, st.text(max_size=6) | st.integers().map(str), st.integers())
@settings(max_examples=150, deadline=None)
def test_every_made_up_value_fits_its_schema(schema: Any, answer: str, key: int) -> None:
    value = instance(schema, answer, str(key), param="response_format")
    Draft202012Validator(schema).validate(value)
    json.dumps(value)


def test_references_and_recursion_are_followed() -> None:
    schema: Mapping[str, Any] = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "next"],
                "additionalProperties": False,
            }
        },
        "allOf": [{"$ref": "#/$defs/node"}],
    }
    for key in map(str, range(20)):
        Draft202012Validator(schema).validate(instance(schema, "x", key, param="tools"))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "https://example.org/schema"},
        {"type": "string", "pattern": "^(?=never)always$"},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "items": {"enum": [1]}, "uniqueItems": True, "minItems": 2},
        False,
    ],
)
def test_a_schema_that_cannot_be_filled_is_refused_and_never_half_filled(schema: Any) -> None:
    with pytest.raises(BadRequest):
        instance(schema, "x", "k", param="response_format")
