"""What goes over the wire, field by field: nothing a client asked for is lost, nothing unknown is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from strop.server.engine.remote.dialect import Dialect, assumed
from strop.server.engine.remote.growing import Start
from strop.server.engine.remote.wire import Opening, request
from strop.strategies.kit.errors import BadRequest, MissingCapability
from strop.strategies.kit.ops import Generate
from strop.strategies.kit.types import Chat, Draft, Format, Message, Sampling, Tool, ToolCall, ToolChoice

OPENAI, VLLM = Dialect(), assumed("vllm")
HELLO = Chat((Message("user", "Hello"),))
EVERYTHING = Sampling(
    temperature=0.3,
    top_p=0.9,
    top_k=40,
    min_p=0.05,
    presence_penalty=0.1,
    frequency_penalty=-0.2,
    repetition_penalty=1.1,
    max_tokens=77,
    min_tokens=3,
    stop=("END", "\n\n"),
    stop_token_ids=(2, 5),
    ignore_eos=True,
    seed=11,
    logit_bias=((50, -100.0), (7, 1.5)),
    top_logprobs=4,
)


def body(
    chat: Chat, dialect: Dialect = OPENAI, n: int = 1, seed: int | None = None, opening: Opening | None = None
) -> dict[str, Any]:
    opening = opening or Opening(chat.prompt)
    made = request(Generate(chat, n), opening, n, seed, dialect, "m", context=4096)
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def test_a_bare_chat_sends_only_what_it_must() -> None:
    assert body(HELLO) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_every_sampling_field_reaches_a_vllm_upstream() -> None:
    assert body(replace(HELLO, sampling=EVERYTHING), VLLM, 3, 11) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "return_token_ids": True,
        "n": 3,
        "seed": 11,
        "temperature": 0.3,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.2,
        "repetition_penalty": 1.1,
        "max_tokens": 77,
        "min_tokens": 3,
        "stop": ["END", "\n\n"],
        "stop_token_ids": [2, 5],
        "ignore_eos": True,
        "logit_bias": {"50": -100.0, "7": 1.5},
        "logprobs": True,
        "top_logprobs": 4,
    }


def test_every_field_of_openais_schema_reaches_any_upstream() -> None:
    sampling = replace(
        EVERYTHING,
        top_k=None,
        min_p=None,
        repetition_penalty=None,
        min_tokens=0,
        stop_token_ids=(),
        ignore_eos=False,
    )
    sent = body(replace(HELLO, sampling=sampling), OPENAI, seed=11)
    expected = {"temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens", "stop", "seed"}
    assert set(sent) == expected | {"logit_bias", "logprobs", "top_logprobs", "model", "messages", "stream"} | {
        "stream_options"
    }


def test_zero_is_a_value_and_not_the_absence_of_one() -> None:
    sent = body(HELLO.but(temperature=0.0, top_p=0.0, seed=0, top_k=0, min_p=0.0), VLLM, seed=0)
    assert {name: sent[name] for name in ("temperature", "top_p", "seed", "top_k", "min_p")} == {
        "temperature": 0.0,
        "top_p": 0.0,
        "seed": 0,
        "top_k": 0,
        "min_p": 0.0,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 3),
        ("min_p", 0.1),
        ("repetition_penalty", 1.2),
        ("stop_token_ids", (1,)),
        ("ignore_eos", True),
        ("min_tokens", 2),
    ],
)
def test_what_an_upstream_is_not_known_to_take_is_an_error_and_not_dropped(field: str, value: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        body(HELLO.but(**{field: value}))
    assert refused.value.param == field


def test_the_length_field_is_the_one_the_upstream_wants() -> None:
    wants = replace(OPENAI, length="max_completion_tokens")
    assert body(HELLO.but(max_tokens=5), wants)["max_completion_tokens"] == 5
    assert "max_tokens" not in body(HELLO.but(max_tokens=5), wants)
    assert body(Chat(prompt="x", sampling=Sampling(max_tokens=5)), wants)["max_tokens"] == 5


def test_turns_keep_their_roles_names_and_calls() -> None:
    chat = Chat(
        (
            Message("developer", "be brief"),
            Message("user", "Weather?", name="ann"),
            Message("assistant", "", (ToolCall("c1", "weather", '{"city": "Rome"}'),)),
            Message("tool", "sunny", tool_call_id="c1"),
        )
    )
    assert body(chat)["messages"] == [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "Weather?", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
            ],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
    ]
    assert body(chat, VLLM)["messages"][0] == {"role": "system", "content": "be brief"}


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (ToolChoice("auto"), "auto"),
        (ToolChoice("none"), "none"),
        (ToolChoice("required"), "required"),
        (ToolChoice("named", "f"), {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tools_and_how_to_choose_among_them(choice: ToolChoice, sent: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    chat = replace(HELLO, tools=(Tool("f", "does f", schema, strict=True), Tool("g")), tool_choice=choice)
    made = body(replace(chat, parallel_tool_calls=False))
    assert made["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "does f", "parameters": schema, "strict": True}},
        {"type": "function", "function": {"name": "g", "description": "", "parameters": {}}},
    ]
    assert made["tool_choice"] == sent
    assert made["parallel_tool_calls"] is False


def test_formats() -> None:
    schema = {"type": "object"}
    assert body(replace(HELLO, format=Format("json_object")))["response_format"] == {"type": "json_object"}
    assert body(replace(HELLO, format=Format("json_schema", "s", schema, True)))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": schema, "strict": True},
    }


def test_raw_prompts_go_to_completions_as_text_or_ids() -> None:
    text = body(Chat(prompt="Once", sampling=Sampling(top_logprobs=2)))
    assert (text["prompt"], text["logprobs"]) == ("Once", 2)
    assert "messages" not in text
    ids = body(Chat(prompt=(1, 2, 3)), VLLM)
    assert (ids["prompt"], ids["max_tokens"]) == ([1, 2, 3], 4093)
    with pytest.raises(MissingCapability):
        body(Chat(prompt=(1, 2, 3)))
    with pytest.raises(BadRequest):
        body(Chat(prompt="x", format=Format("json_object")))


def test_a_turn_to_be_continued_is_the_last_message() -> None:
    sent = body(HELLO, VLLM, opening=Opening(turn="So far", start=Start(Draft("So far"))))
    assert sent["messages"][-1] == {"role": "assistant", "content": "So far"}
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)


def test_wanted_logprobs_are_asked_for() -> None:
    made = request(Generate(HELLO, want=("logprobs",)), Opening(), 1, None, OPENAI, "m")
    assert (made["logprobs"], made["top_logprobs"]) == (True, 0)
    raw = request(Generate(HELLO, want=("logprobs",)), Opening("x"), 1, None, OPENAI, "m")
    assert raw["logprobs"] == 0
