"""The embedded model answers through every strategy, over HTTP, with a bill that the engine confirms."""

from __future__ import annotations

import json
import socket
import time

import openai
import pytest

from strop.strategies import CATALOGUE

pytestmark = pytest.mark.model

QUESTION = "Tom has 3 apples and buys 4 more. How many apples has he? Think briefly, then answer."
ASK = [{"role": "user", "content": QUESTION}]
SMALL = {"calls": 8, "tokens": 400, "seconds": 90}


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_strategy_answers_and_its_bill_is_what_the_engine_counted(server, name, capsys):
    before = server.counters()
    try:
        answer = server.sdk().chat.completions.create(
            model=server.model,
            messages=ASK,
            max_tokens=40,
            seed=7,
            extra_body={"strop": {"strategy": name, "budget": SMALL, "trace": True}},
        )
    except openai.BadRequestError as refused:
        if refused.code not in ("unsupported_capability", "budget_exceeded"):
            raise
        pytest.skip(f"{name} cannot run here: {refused.body['message']}")
    after = server.counters()
    strop = answer.model_extra["strop"]
    with capsys.disabled():
        _show(strop, answer.choices[0].message.content)
    assert answer.choices[0].message.content
    total = strop["bill"]["total"]
    assert total["completion_tokens"] == after.completion - before.completion
    assert total["prompt_tokens"] == after.prompt - before.prompt
    assert total["calls"] == after.calls - before.calls
    assert answer.usage.completion_tokens == total["completion_tokens"] + total["injected_tokens"]
    assert answer.usage.prompt_tokens > 10


def test_a_streamed_answer_is_the_whole_answer(server):
    whole = server.sdk().chat.completions.create(model=server.model, messages=ASK, max_tokens=30, temperature=0)
    chunks = list(
        server.sdk().chat.completions.create(
            model=server.model, messages=ASK, max_tokens=30, temperature=0, stream=True
        )
    )
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(words) == whole.choices[0].message.content
    assert len(words) > 5, "it was not streamed word by word"


def test_a_seed_repeats_every_draft_of_a_strategy(server):
    def once() -> str | None:
        answer = server.sdk().chat.completions.create(
            model=f"{server.model}:vote-8", messages=ASK, max_tokens=16, seed=3, extra_body={"strop": {"n": 3}}
        )
        return answer.choices[0].message.content

    assert once() == once()


def test_constrained_answers_fit_their_schema_under_refinement(server):
    schema = {
        "type": "object",
        "properties": {"apples": {"type": "integer"}},
        "required": ["apples"],
        "additionalProperties": False,
    }
    answer = server.sdk().chat.completions.create(
        model=server.model,
        messages=ASK,
        max_tokens=40,
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "count", "schema": schema}},
        extra_body={"strop": {"strategy": "best_of_n", "n": 3}},
    )
    assert set(json.loads(answer.choices[0].message.content)) == {"apples"}


def test_a_forced_tool_is_called_with_valid_arguments_under_refinement(server):
    parameters = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    }
    answer = server.sdk().chat.completions.create(
        model=server.model,
        messages=ASK,
        max_tokens=60,
        tools=[
            {
                "type": "function",
                "function": {"name": "add", "description": "Add two numbers.", "parameters": parameters},
            }
        ],
        tool_choice={"type": "function", "function": {"name": "add"}},
        extra_body={"strop": {"strategy": "self_consistency", "n": 3}},
    )
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "add"
    assert {"a", "b"} <= set(json.loads(call.function.arguments))
    assert answer.choices[0].finish_reason == "tool_calls"


def test_a_client_that_hangs_up_stops_the_model(server):
    body = json.dumps(
        {
            "model": server.model,
            "messages": ASK,
            "max_tokens": 2000,
            "ignore_eos": True,
            "strop": {"strategy": "best_of_n", "n": 4},
        }
    ).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head.encode() + body)
        deadline = time.monotonic() + 30
        while server.service.engine.counters().running == 0:
            assert time.monotonic() < deadline, "the request never reached the engine"
            time.sleep(0.02)
    assert server.counters().running == 0


def test_the_deadline_serves_what_there_is(server):
    answer = server.sdk().chat.completions.create(
        model=server.model,
        messages=ASK,
        max_tokens=4000,
        extra_body={"ignore_eos": True, "strop": {"strategy": "direct", "budget": {"seconds": 3}}},
    )
    strop = answer.model_extra["strop"]
    assert (strop["stopped"], strop["degraded"]) == ("deadline", "partial")
    assert answer.choices[0].message.content


def _show(strop: dict, text: str | None) -> None:
    """The trace, for people who read the log of the suite."""
    bill = strop["bill"]["total"]
    print(
        f"\n== {strop['strategy']} ({strop['stopped']}): {bill['calls']} calls, {bill['completion_tokens']} tokens, "
        f"{strop['bill']['seconds']:.1f} s: {text!r}"
    )
    for line in strop["trace"]:
        if line["kind"] == "op":
            op = line["op"]
            print(
                f"   {line['at']:6.2f}s +{line['seconds']:.2f}s {line['key']} {op['kind']}"
                f" {line['usage']['completion']} tokens"
            )
        elif line["kind"] in ("kept", "noted"):
            print(f"   {line['kind']} {line.get('score') if line['kind'] == 'kept' else line['facts']}")
