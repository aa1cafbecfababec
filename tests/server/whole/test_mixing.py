"""Many requests at once: no answer, knob, format or bill of one ends up in another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

AT_ONCE = 64
FREE = ("direct", "best_of_n", "self_consistency", "id_sampling")
"""Strategies whose answer to "reply with exactly X" is X whatever they think in between."""


@pytest.fixture(scope="module")
def paced(tools: Any) -> Iterator[Any]:
    with tools.Whole(simulation={"tokens_per_second": 1000.0, "latency": 0.02}) as server:
        yield server


def request(tools: Any, i: int) -> dict[str, Any]:
    """The i-th of many requests that differ in everything."""
    name = tools.SERVED[i // 3 % len(tools.SERVED)]
    to = ("chat", "responses", "text")[i % 3]
    if to == "text" and name in tools.NEED_TURNS:
        to = "chat"
    knobs = dict(tools.KNOBS[name])
    if "n" in knobs:
        knobs["n"] += i % 4
    if name == "id_sampling":
        knobs["first"] += i
    fields: dict[str, Any] = {"strop": {"strategy": name, **knobs}, "temperature": 0.5 + i / 100}
    if to != "responses":
        fields |= {"seed": i, "max_tokens": 100 + i}
    return {"text": f"Reply with exactly: word{i}x", "to": to, **fields}


def send(server: Any, tools: Any, asked: dict[str, Any], stream: bool) -> Any:
    return server.events(**asked) if stream else server.ask(**asked).json()


def together(server: Any, tools: Any, asked: list[dict[str, Any]]) -> list[Any]:
    """All answers; every second one is streamed."""
    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda i: send(server, tools, asked[i], bool(i % 2)), range(len(asked))))


def test_64_different_requests_at_once_get_their_own_answers_knobs_and_bills(paced, tools):
    asked = [request(tools, i) for i in range(AT_ONCE)]
    before = paced.counted
    answers = together(paced, tools, asked)
    total = 0
    for i, (wanted, answer) in enumerate(zip(asked, answers, strict=True)):
        about = tools.about(answer)
        name = wanted["strop"]["strategy"]
        assert about["strategy"] == name
        assert about["knobs"] == {**about["knobs"], **{k: v for k, v in wanted["strop"].items() if k != "strategy"}}
        if name in FREE:
            assert tools.said(answer) == f"word{i}x"
        total += about["bill"]["total"]["completion_tokens"]
    assert total == paced.counted.completion - before.completion
    assert len({tools.about(answer)["trace_id"] for answer in answers}) == AT_ONCE


def test_a_seeded_request_gets_the_same_answer_and_bill_in_company_as_alone(paced, whole, tools):
    """With strategies that have no prompts of their own: those carry random fence words, which the model reads too."""
    asked = [each for i in range(3 * len(tools.SERVED)) if "seed" in (each := request(tools, i))]
    for each in asked:
        each["text"] = f"What is {each['seed']} + 22?"
        if each["strop"]["strategy"] == "self_consistency":
            each["strop"]["adaptive"] = False  # an early stop cancels drafts wherever they are
    crowd = together(paced, tools, asked)
    compared = set()
    for i, (each, answer) in enumerate(zip(asked, crowd, strict=True)):
        name = each["strop"]["strategy"]
        if name in ("direct", "self_consistency", "id_sampling"):
            compared.add(name)
            alone = send(whole, tools, each, bool(i % 2))
            assert tools.said(alone) == tools.said(answer), name
            first, second = tools.about(alone)["bill"]["total"], tools.about(answer)["bill"]["total"]
            assert {**first, "seconds": 0} == {**second, "seconds": 0}, name
    assert len(compared) == 3


def test_formats_tools_stops_and_biases_stay_with_their_requests(paced, tools):
    def fields(i: int) -> dict[str, Any]:
        strop = {"strategy": FREE[i % len(FREE)], **tools.KNOBS[FREE[i % len(FREE)]]}
        match i % 4:
            case 0:
                schema = {"type": "object", "properties": {f"key{i}": {"const": i}}, "required": [f"key{i}"]}
                wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
                return {"response_format": wanted, "strop": strop}
            case 1:
                function = {"name": f"call_{i}", "parameters": {"type": "object", "properties": {}}}
                return {"tools": [{"type": "function", "function": function}], "strop": strop}
            case 2:
                return {"stop": [f"d{i}"], "strop": strop}
            case _:
                return {"max_tokens": 1 + i % 3, "strop": strop}

    asked = [{"text": f"Say exactly: word{i}x", **fields(i)} for i in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda each: paced.ask(**each).json()["choices"][0], asked))
    for i, choice in enumerate(answers):
        message = choice["message"]
        match i % 4:
            case 0:
                assert json.loads(message["content"])[f"key{i}"] == i
            case 1:
                assert [call["function"]["name"] for call in message["tool_calls"]] == [f"call_{i}"]
            case 2:
                assert message["content"] == "wor"
            case _:
                assert choice["finish_reason"] in ("length", "stop")
                assert f"word{i}x".startswith(message["content"])
                assert len(message["content"]) <= 4 * (1 + i % 3)
