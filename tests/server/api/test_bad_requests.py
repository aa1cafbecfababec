"""Hundreds of malformed requests: always a 4xx in OpenAI's shape, never a dead engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

USER = {"role": "user", "content": "hi"}
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
HUGE = 10**30
ODD: list[Any] = ["x", "", [], {}, True, "1", [1], {"a": 1}]
"""Values that are not numbers."""

NUMBERS: dict[str, list[Any]] = {
    "temperature": [-0.01, 2.01, -1, HUGE],
    "top_p": [0, -0.1, 1.0001, HUGE],
    "min_p": [-0.1, 1.1],
    "presence_penalty": [-2.01, 2.01],
    "frequency_penalty": [-2.01, 2.01],
    "repetition_penalty": [0, -1, 11],
    "top_k": [-2, 1.5, HUGE],
    "max_tokens": [0, -1, 1.5, HUGE, 2**31],
    "max_completion_tokens": [0, -1, 1.5, HUGE],
    "min_tokens": [-1, 1.5, HUGE],
    "n": [0, -1, 9, 129, 1.5, HUGE],
    "seed": [2**63, -(2**63) - 1, 1.5, HUGE],
    "top_logprobs": [-1, 21, 1.5, HUGE],
}
BOOLEANS = ("stream", "logprobs", "parallel_tool_calls", "ignore_eos", "store")
STRINGS = ("user", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity")

FIELDS: dict[str, list[Any]] = {
    "model": [None, 1, "", [], {}, "x" * 600, "nope", True],
    "messages": [None, [], {}, "hi", 1, [None], [1], ["hi"], [[]], [{}], [USER, None]],
    "stop": [1, True, {}, "", [""], [1], [None], ["x"] * 17, ["x" * 1025], "x" * 1025],
    "stop_token_ids": [1, "1", {}, ["1"], [-1], [1.5], [HUGE], [None], list(range(129))],
    "logit_bias": [
        1,
        "x",
        [],
        {"x": 1},
        {"": 1},
        {"-1": 1},
        {"1.5": 1},
        {"1": 101},
        {"1": -101},
        {"1": "1"},
        {"1": None},
        {"1": True},
        {"1" * 10: 1},
        {str(i): 1 for i in range(1025)},
    ],
    "metadata": [
        1,
        "x",
        [],
        {"a": 1},
        {"a": None},
        {"a": "x" * 513},
        {"k" * 65: "x"},
        {str(i): "x" for i in range(17)},
    ],
    "stream_options": [1, "x", [], {"include_usage": 1}, {"include_usage": "yes"}, {"continuous_usage_stats": 1}],
    "reasoning_effort": [1, "extreme", "", [], {}],
    "modalities": [1, "text", ["video"], ["audio"], ["text", "audio"], [1]],
    "tools": [
        1,
        "x",
        {},
        [1],
        [{}],
        [None],
        [{"type": "function"}],
        [{"type": "custom", "custom": {"name": "x"}}],
        [{"type": "function", "function": {}}],
        [{"type": "function", "function": {"name": ""}}],
        [{"type": "function", "function": {"name": "a b"}}],
        [{"type": "function", "function": {"name": "x" * 65}}],
        [{"type": "function", "function": {"name": "f\n"}}],
        [{"type": "function", "function": {"name": 1}}],
        [{"type": "function", "function": {"name": "f", "parameters": []}}],
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}],
        [{"type": "function", "function": {"name": "f", "parameters": {"required": "a"}}}],
        [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "http://x/y"}}}],
        [{"type": "function", "function": {"name": "f", "parameters": {"a": {"$ref": "file:///etc/passwd"}}}}],
        [{"type": "function", "function": {"name": "f", "description": 1}}],
        [{"type": "function", "function": {"name": "f", "strict": "yes"}}],
        [TOOL, TOOL],
        [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)],
    ],
    "tool_choice": [
        1,
        [],
        {},
        "some",
        "required",
        {"type": "function"},
        {"type": "function", "function": {"name": "f"}},
        {"type": "custom", "custom": {"name": "f"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": [TOOL]}},
    ],
    "functions": [1, {}, [1], [{}], [{"name": "a b"}], [FUNCTION, FUNCTION], [{"name": "f", "parameters": 1}]],
    "function_call": [1, [], {}, "some", {"name": "f"}, {"name": 1}],
    "response_format": [
        1,
        "json",
        [],
        {},
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {}},
        {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": []}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "objekt"}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "https://x"}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"description": "x" * 140_000}}},
        {"type": "json_schema", "json_schema": {"name": "a", "strict": 1}},
    ],
    "strop": [
        1,
        "pick",
        [],
        {"strategy": 1},
        {"strategy": ""},
        {"strategy": "x" * 129},
        {"strategy": "nope"},
        {"preset": "nope"},
        {"strategy": "pick", "preset": "pick-2"},
        {"strategy": "pick", "n": "4"},
        {"strategy": "pick", "n": None},
        {"strategy": "pick", "tie": 1},
        {"strategy": "pick", "unknown": 1},
        {"strategy": "direct", "n": 2},
        {"n": 2},
        {"budget": 1},
        {"budget": []},
        {"budget": {"tokens": 0}},
        {"budget": {"tokens": "1"}},
        {"budget": {"tokens": 1.5}},
        {"budget": {"tokens": HUGE}},
        {"budget": {"tokens": 65_537}},
        {"budget": {"calls": 0}},
        {"budget": {"calls": 129}},
        {"budget": {"seconds": 0}},
        {"budget": {"seconds": -1}},
        {"budget": {"seconds": 541}},
        {"budget": {"seconds": True}},
        {"budget": {"usd": 0}},
        {"budget": {"usd": 1}},
        {"budget": {"unknown": 1}},
        {"trace": 1},
        {"trace": "yes"},
        {"stream_trace": 1},
        {"tokens": True},
        {"train": False},
        {"store": False},
    ],
    "web_search_options": [{}, {"search_context_size": "low"}],
    "guided_json": [{"type": "object"}],
    "guided_regex": ["a+"],
    "guided_choice": [["a"]],
    "structured_outputs": [{"json": {}}],
    "chat_template": ["{{ messages }}"],
    "chat_template_kwargs": [{"enable_thinking": False}],
    "continue_final_message": [True],
    "add_generation_prompt": [False],
    "best_of": [2],
    "use_beam_search": [True],
    "prompt_logprobs": [1, 0],
    "echo": [True],
    "allowed_token_ids": [[1]],
    "bad_words": [["x"]],
}

TURNS: list[Any] = [
    {"content": "x"},
    {"role": None, "content": "x"},
    {"role": 1, "content": "x"},
    {"role": "wizard", "content": "x"},
    {"role": "", "content": "x"},
    {"role": "user"},
    {"role": "user", "content": None},
    {"role": "user", "content": 1},
    {"role": "user", "content": {}},
    {"role": "user", "content": []},
    {"role": "user", "content": [1]},
    {"role": "user", "content": [{}]},
    {"role": "user", "content": [{"type": "text"}]},
    {"role": "user", "content": [{"type": "text", "text": 1}]},
    {"role": "user", "content": [{"type": "text", "text": None}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x.png"}}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]},
    {"role": "user", "content": [{"type": "file", "file": {}}]},
    {"role": "user", "content": [{"type": [], "text": "x"}]},
    {"role": "user", "content": [{"type": {}, "text": "x"}]},
    {"role": {}, "content": "x"},
    {"role": "user", "content": "x", "name": 1},
    {"role": "system"},
    {"role": "system", "content": None},
    {"role": "assistant"},
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": 1},
    {"role": "assistant", "tool_calls": 1},
    {"role": "assistant", "tool_calls": [1]},
    {"role": "assistant", "tool_calls": [{}]},
    {"role": "assistant", "tool_calls": [{"id": "", "type": "function", "function": {"name": "f", "arguments": ""}}]},
    {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]},
    {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]},
    {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]},
    {"role": "assistant", "function_call": {"name": "f"}},
    {"role": "tool", "content": "x"},
    {"role": "tool", "content": "x", "tool_call_id": ""},
    {"role": "tool", "content": "x", "tool_call_id": 1},
    {"role": "tool", "tool_call_id": "1"},
    {"role": "function", "content": "x"},
    {"role": "function", "content": "x", "name": "never_called"},
]

COMBINATIONS: list[dict[str, Any]] = [
    {"top_logprobs": 3},
    {"top_logprobs": 3, "logprobs": False},
    {"min_tokens": 5, "max_tokens": 4},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
    {"tools": [], "tool_choice": "required"},
    {"tools": [TOOL], "functions": [FUNCTION]},
    {"functions": [FUNCTION], "function_call": {"name": "g"}},
    {"messages": [USER] * 2049},
]

RAW: list[bytes] = [
    b"",
    b" ",
    b"null",
    b"1",
    b'"x"',
    b"[]",
    b"{",
    b"{}",
    b'{"model": "tiny"}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": Infinity}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": -Infinity}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 1e999}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "seed": 1e999}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "seed": ' + b"9" * 5000 + b"}",
    b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "\\udc00x"}]}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "strop": {"strategy": "pick", "tie": 1e999}}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}],}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]} trailing',
    b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    b'{"model": "tiny", "messages": ' + b"[" * 150 + b"]" * 150 + b"}",
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "response_format": {"type": "json_schema", '
    b'"json_schema": {"name": "a", "schema": ' + b'{"not":' * 100 + b"{}" + b"}" * 100 + b"}}}",
    b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function", "function": '
    b'{"name": "f", "parameters": {"maximum": 1e999}}}]}',
]


def malformed() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every malformed field with a name."""
    for field, values in NUMBERS.items():
        yield from ((f"{field}={str(value)[:20]}", {field: value, "logprobs": True}) for value in [*ODD, *values])
    for field in BOOLEANS:
        yield from ((f"{field}={value!r}", {field: value}) for value in (0, 1, "true", "", [], {}, 1.5))
    for field in STRINGS:
        yield from ((f"{field}={value!r}", {field: value}) for value in (1, True, [], {}))
    for field, values in FIELDS.items():
        yield from ((f"{field}[{i}]", {field: value}) for i, value in enumerate(values))
    yield from ((f"turn[{i}]", {"messages": [USER, turn]}) for i, turn in enumerate(TURNS))
    yield from ((f"combination[{i}]", fields) for i, fields in enumerate(COMBINATIONS))


BODIES = {name: json.dumps({"model": "tiny", "messages": [USER], **fields}).encode() for name, fields in malformed()}
BODIES.update({f"raw[{i}]": raw for i, raw in enumerate(RAW)})


def test_there_are_hundreds_of_them():
    assert len(BODIES) > 350


@pytest.mark.parametrize("name", BODIES)
def test_a_malformed_request_is_refused_in_openai_shape(live, name):
    started = live.engine.started
    answer = live.http.post("/v1/chat/completions", content=BODIES[name], headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert answer.status_code != 422
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["type"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert len(answer.text) < 2000
    assert live.engine.started == started, "the engine was bothered"


def test_after_all_of_that_the_engine_answers(live):
    assert live.chat().status_code == 200
    assert live.engine.in_flight == 0


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        (
            {"messages": [USER, {"role": "tool", "content": "x"}]},
            "messages[1].tool_call_id",
            "missing_required_parameter",
        ),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
            "unsupported_parameter",
        ),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        ({"strop": {"budget": {"tokens": -1}}}, "strop.budget.tokens", "invalid_value"),
        ({"strop": {"budget": {"token": 1}}}, "strop.budget.token", "unknown_parameter"),
        ({"strop": {"strategy": "pick", "m": 1}}, "strop.m", "invalid_knob"),
        ({"strop": {"store": False}}, "strop.store", "unsupported_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 1}}}},
            "response_format.json_schema.schema",
            "invalid_schema",
        ),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"n": 9}, "n", "invalid_value"),
        ({"model": "nope"}, "model", "model_not_found"),
    ],
)
def test_errors_name_the_parameter_that_is_wrong(live, fields, param, code):
    error = live.chat(**fields).json()["error"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    "header",
    [
        "nope",
        "{",
        "{}x",
        "[1]",
        '{"strategy": 1}',
        '{"strategy": "nope"}',
        '{"budget": {"x": 1}}',
        '{"n": 1}',
        "pick;n=8",
    ],
)
def test_a_malformed_strategy_header_is_refused(live, header):
    body = {"model": "tiny", "messages": [USER]}
    answer = live.http.post("/v1/chat/completions", json=body, headers={"X-Strop-Strategy": header})
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"]["code"], str)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"])
def test_a_body_that_a_foreign_page_could_send_unasked_is_415(live, kind):
    body = json.dumps({"model": "tiny", "messages": [USER]}).encode()
    answer = live.http.post("/v1/chat/completions", content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"])
def test_json_by_any_of_its_names_is_read(live, kind):
    body = json.dumps({"model": "tiny", "messages": [USER]}).encode()
    assert live.http.post("/v1/chat/completions", content=body, headers={"content-type": kind}).status_code == 200


def test_a_body_over_the_limit_is_413_declared_or_not(serve):
    from strop.strategies.testing import Simulated

    server = serve(Simulated(), max_body_bytes=2000)
    body = json.dumps({"model": "tiny", "messages": [USER], "user": "x" * 3000}).encode()
    headers = {"content-type": "application/json"}
    declared = server.http.post("/v1/chat/completions", content=body, headers=headers)
    parts = (body[i : i + 500] for i in range(0, len(body), 500))
    chunked = server.http.post("/v1/chat/completions", content=parts, headers=headers)
    for answer in (declared, chunked):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert server.chat().status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        dict.fromkeys(("temperature", "top_p", "n", "stop", "seed", "tools", "strop", "metadata", "stream", "stop")),
        {"user": "u", "store": False, "service_tier": "flex", "verbosity": "low", "safety_identifier": "s"},
        {"audio": {"voice": "alloy", "format": "wav"}, "modalities": ["text"], "prediction": {"type": "content"}},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {}, "moderation": {}},
        {
            "metadata": {"a": "b"},
            "thinking": {"type": "enabled"},
            "provider": {"order": []},
            "made_up": [1, {"x": None}],
        },
        {"stream_options": {"include_usage": True}},
        {"stop": [], "tools": [], "logit_bias": {}, "bad_words": [], "best_of": 1, "echo": False},
        {"top_k": -1, "min_p": 0, "repetition_penalty": 1, "min_tokens": 0, "presence_penalty": 0},
        {"tool_choice": "auto"},
        {"tool_choice": "none", "tools": [TOOL]},
        {"seed": -(2**63)},
        {"max_tokens": 4.0, "n": 1.0, "seed": 1e3, "strop": {"budget": {"tokens": 9.0}}},
        {"messages": [USER] * 100},
        {"messages": [{"role": "user", "content": "", "made_up": 1}]},
        {"messages": [{"role": "user", "content": "\x00\u2028😀"}]},
    ],
)
def test_what_is_accepted_and_ignored_is_really_accepted(live, fields):
    answer = live.chat(**fields)
    assert answer.status_code == 200, answer.text


def test_the_effective_service_tier_is_named_when_a_tier_was_asked_for(live):
    assert live.chat(service_tier="flex").json()["service_tier"] == "default"
    assert "service_tier" not in live.chat().json()
