"""Hostile values for every documented field of every endpoint: never a server error, never a dead engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from strop.strategies import CATALOGUE

DEEP: Any = {}
for _ in range(60):
    DEEP = {"a": [DEEP]}

VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 2**63, 10**30),
    *("", "x", "\x00", "😀\u2028", "x" * 20_000, "auto", "../../etc/passwd", "1"),
    *([], [None], [[]], [1], [-1, 2**40], ["x"] * 200, [{}], [{"type": "text"}], [{"type": "function"}]),
    *({}, {"a": 1}, {"": None}, {"type": "json_schema"}, {"type": "function"}, {"effort": 1}, {"tokens": -1}, DEEP),
]
MODELS = {"chat": "ChatRequest", "text": "CompletionRequest", "responses": "ResponsesRequest"}
KNOB_VALUES = (None, True, -1, 1.5, 10**30, "x", [], {})


def check(server: Any, answer: Any, what: str) -> None:
    assert answer.status_code < 500, f"{what}: {answer.text[:300]}"
    assert answer.status_code != 422
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, what
        assert error["message"], what
        assert len(answer.text) < 2500, what


@pytest.mark.parametrize("to", MODELS)
def test_every_documented_field_survives_every_hostile_value(whole, tools, to):
    document = whole.http.get("/openapi.json").json()
    fields = document["components"]["schemas"][MODELS[to]]["properties"]
    assert len(fields) > 20
    length = {} if to == "responses" else {"max_tokens": 3}
    served = 0
    for field in fields:
        for i, value in enumerate(VALUES):
            asked = {**tools.body("hi", to=to), **length, "stream": bool(i % 2), field: value}
            content = json.dumps(asked).encode("utf-8", "surrogatepass")
            answer = whole.http.post(tools.ROUTES[to], content=content, headers={"content-type": "application/json"})
            check(whole, answer, f"{to} {field}={str(value)[:60]!r}")
            served += answer.status_code == 200
    assert served > len(fields), "null is welcome everywhere but in required fields"
    assert whole.idle
    assert whole.ask(to=to).status_code == 200


def test_every_knob_survives_every_hostile_value(whole, tools, name):
    for knob in [*CATALOGUE[name].knobs.model_fields, "unknown", "strategy", "budget", "trace", "preset"]:
        for value in KNOB_VALUES:
            strop = {"strategy": name, **tools.KNOBS[name], knob: value}
            check(whole, whole.ask(strop=strop, max_tokens=5), f"{name} {knob}={value!r}")
    assert whole.idle


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [10**9]},
        {"prompt": [2**31 - 1] * 3, "echo": True},
        {"prompt": [0, 0, 0], "echo": True, "logprobs": 1},
        {"prompt": "", "echo": True, "logprobs": 1},
        {"prompt": "", "echo": True, "max_tokens": 0, "logprobs": 0},
        {"prompt": ["", "x"], "echo": True, "max_tokens": 0},
        {"prompt": "x " * 40_000},
        {"prompt": "x " * 40_000, "echo": True, "max_tokens": 0, "logprobs": 1},
        {"prompt": "\x00\ufffd😀", "echo": True, "logprobs": 20},
        {"max_tokens": 2**31 - 1},
        {"max_tokens": 32_000, "ignore_eos": True},
        {"min_tokens": 30_000, "max_tokens": 30_000},
        {"n": 16, "best_of": 16, "logprobs": 20, "echo": True},
        {"prompt": ["x"] * 128, "n": 16, "max_tokens": 1},
        {"stop": ["\n", " ", "e", "a"], "stop_token_ids": [0]},
        {"logit_bias": {str(i): -100 for i in range(1000)}, "max_tokens": 50},
    ],
    ids=lambda fields: str(fields)[:40],
)
@pytest.mark.parametrize("stream", [False, True])
def test_extreme_but_legal_requests_are_answered_or_refused(whole, tools, fields, stream):
    answer = whole.ask(to="text", stream=stream, **fields)
    check(whole, answer, str(fields)[:60])
    if stream and answer.status_code == 200:
        assert "[DONE]" in answer.text
    assert whole.idle


def test_headers_and_paths_survive_hostile_values_too(whole):
    body = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}]}
    for value in ("x" * 4000, "{", "[1]", '{"strategy": []}', "é".encode("latin-1"), "direct;x", '{"n": 1e999}'):
        check(
            whole, whole.http.post("/v1/chat/completions", json=body, headers={"x-strop-strategy": value}), str(value)
        )
    for name in ("%00", "..%2f..", "x" * 3000, "%F0%9F%98%80", "direct%20", "{strategy}", "%ff"):
        for route in ("chat/completions", "completions", "responses"):
            answer = whole.http.post(f"/v1/strategies/{name}/{route}", json={**body, "prompt": "x", "input": "x"})
            check(whole, answer, f"{name} {route}")
            assert answer.status_code >= 400
