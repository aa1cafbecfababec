"""Chat completions through the openai SDK and a real socket."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from strop.strategies.kit.types import Draft, ToolCall
from strop.strategies.testing import Scripted

ASK: list[Any] = [{"role": "user", "content": "What is 6 times 7?"}]
WEATHER = {
    "name": "weather",
    "description": "the weather somewhere",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS: list[Any] = [{"type": "function", "function": WEATHER}]
CALL = Draft("", "tool_calls", (ToolCall("call_1", "weather", '{"city": "Ulm"}'),), n_tokens=7)


def chunks_of(stream: Any) -> list[Any]:
    return list(stream)


def text_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index)


def reasoning_of(chunks: list[Any]) -> str:
    return "".join(getattr(c.delta, "reasoning_content", None) or "" for chunk in chunks for c in chunk.choices)


def test_a_plain_answer_carries_text_usage_and_the_bill(live):
    answer = live.sdk().chat.completions.create(model="tiny", messages=ASK)
    (choice,) = answer.choices
    assert choice.message.content
    assert choice.finish_reason == "stop"
    strop = answer.model_extra["strop"]
    assert strop["strategy"] == "direct"
    assert strop["selected_by"] == "default"
    assert strop["stopped"] == "done"
    assert strop["trace_id"] == answer.id
    assert "degraded" not in strop
    assert "trace" not in strop
    total = strop["bill"]["total"]
    assert answer.usage.completion_tokens == total["completion_tokens"]
    assert answer.usage.prompt_tokens == total["prompt_tokens"]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def test_the_prompt_counts_once_and_every_hidden_token_counts_as_reasoning(serve):
    server = serve(Scripted({"draft": ["one two", "one two three four", "one"]}))
    answer = server.sdk().chat.completions.create(
        model="tiny", messages=ASK, extra_body={"strop": {"strategy": "pick", "n": 3}}
    )
    alone = server.service.engine.inner.asked[0]
    assert answer.choices[0].message.content == "one two three four"
    assert answer.usage.completion_tokens == 2 + 4 + 1
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2 + 1
    assert answer.usage.prompt_tokens == len(alone.chat.question.split())
    bill = answer.model_extra["strop"]["bill"]
    assert bill["total"]["prompt_tokens"] == 3 * answer.usage.prompt_tokens
    assert bill["total"]["calls"] == 3
    assert bill["discarded_tokens"] == 3
    assert sum(phase["completion_tokens"] for phase in bill["phases"].values()) == answer.usage.completion_tokens


def test_headers_name_the_request_the_trace_and_the_strategy(live):
    raw = live.sdk().chat.completions.with_raw_response.create(
        model="tiny:pick-2", messages=ASK, extra_headers={"x-request-id": "my-id_7"}
    )
    assert raw.headers["x-request-id"] == "my-id_7"
    assert raw.headers["x-strop-strategy"] == "pick"
    assert raw.headers["x-strop-trace-id"] == raw.parse().id
    assert int(raw.headers["openai-processing-ms"]) >= 0


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "a;b", "ü"])
def test_a_request_id_that_is_not_harmless_is_replaced(live, bad):
    headers = {b"x-request-id": bad.encode()}
    assert live.http.get("/version", headers=headers).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("path", "model", "body", "headers", "selected_by", "strategy", "knobs"),
    [
        ("/v1", "tiny", {}, {}, "default", "direct", {}),
        ("/v1", "tiny", {"reasoning_effort": "high"}, {}, "effort", "pick", {"n": 2, "tie": "first"}),
        ("/v1", "tiny", {"reasoning_effort": "medium"}, {}, "default", "direct", {}),
        ("/v1", "tiny:pick-2", {}, {}, "model", "pick", {"n": 2, "tie": "first"}),
        ("/v1", "tiny:pick", {}, {}, "model", "pick", {"n": 4, "tie": "first"}),
        ("/v1", "tiny", {}, {"X-Strop-Strategy": "revise"}, "header", "revise", {}),
        ("/v1", "tiny", {}, {"X-Strop-Strategy": "pick-2"}, "header", "pick", {"n": 2, "tie": "first"}),
        (
            "/v1",
            "tiny",
            {},
            {"X-Strop-Strategy": '{"strategy": "pick", "n": 3}'},
            "header",
            "pick",
            {"n": 3, "tie": "first"},
        ),
        ("/v1/strategies/pick", "tiny", {}, {}, "path", "pick", {"n": 4, "tie": "first"}),
        ("/v1/strategies/pick-2", "tiny", {}, {}, "path", "pick", {"n": 2, "tie": "first"}),
        ("/v1", "tiny", {"strop": {"strategy": "pick", "n": 1}}, {}, "body", "pick", {"n": 1, "tie": "first"}),
        ("/v1", "tiny", {"strop": {"preset": "pick-2"}}, {}, "body", "pick", {"n": 2, "tie": "first"}),
        ("/v1", "tiny", {"strop": {"strategy": "pick-2", "n": 1}}, {}, "body", "pick", {"n": 1, "tie": "first"}),
        ("/v1", "tiny:pick-2", {"strop": {"n": 3}}, {}, "model", "pick", {"n": 3, "tie": "first"}),
    ],
)
def test_a_strategy_can_be_chosen_in_every_way(live, path, model, body, headers, selected_by, strategy, knobs):
    answer = live.sdk(path).chat.completions.create(model=model, messages=ASK, extra_body=body, extra_headers=headers)
    strop = answer.model_extra["strop"]
    assert (strop["selected_by"], strop["strategy"], strop["knobs"]) == (selected_by, strategy, knobs)
    assert answer.model == model


def test_when_several_sources_choose_the_first_in_order_wins(live):
    everything = {
        "body": {"strop": {"strategy": "revise"}},
        "path": "/v1/strategies/pick",
        "header": {"X-Strop-Strategy": "wordy"},
        "model": "tiny:pick-2",
        "effort": "high",
    }
    for missing in ("", "body", "path", "header", "model"):
        everything.pop(missing, None)
        answer = live.sdk(everything.get("path", "/v1")).chat.completions.create(
            model=everything.get("model", "tiny"),
            messages=ASK,
            reasoning_effort=everything["effort"],
            extra_body=everything.get("body", {}),
            extra_headers=everything.get("header", {}),
        )
        assert answer.model_extra["strop"]["selected_by"] == next(iter(everything))


@pytest.mark.parametrize(
    ("path", "request_", "code", "status"),
    [
        ("/v1", {"extra_body": {"strop": {"strategy": "nope"}}}, "strategy_not_found", 400),
        ("/v1", {"extra_body": {"strop": {"strategy": "gone"}}}, "strategy_not_found", 400),
        ("/v1", {"extra_body": {"strop": {"preset": "pick"}}}, "strategy_not_found", 400),
        ("/v1", {"extra_headers": {"X-Strop-Strategy": "nope"}}, "strategy_not_found", 400),
        ("/v1", {"model": "tiny:nope"}, "strategy_not_found", 400),
        ("/v1/strategies/nope", {}, "strategy_not_found", 400),
        ("/v1", {"extra_body": {"strop": {"strategy": "pick", "m": 1}}}, "invalid_knob", 400),
        ("/v1", {"extra_body": {"strop": {"strategy": "pick", "n": "many"}}}, "invalid_knob", 400),
        ("/v1", {"extra_body": {"strop": {"strategy": "stepwise"}}}, "unsupported_capability", 400),
        ("/v1", {"extra_body": {"strop": {"budget": {"tokens": 10**9}}}}, "budget_exceeded", 400),
        ("/v1", {"extra_body": {"strop": {"budget": {"usd": 1}}}}, "price_unknown", 400),
        ("/v1", {"model": "other"}, "model_not_found", 404),
        ("/v1", {"model": "tiny:"}, "model_not_found", 404),
        ("/v1", {"model": "tinypick-2"}, "model_not_found", 404),
    ],
)
def test_an_unknown_strategy_knob_or_model_is_refused(live, path, request_, code, status):
    with pytest.raises(openai.APIStatusError) as refused:
        live.sdk(path).chat.completions.create(**{"model": "tiny", "messages": ASK, **request_})
    assert (refused.value.status_code, refused.value.code) == (status, code)


def test_the_prompt_never_chooses_a_strategy(live):
    tag = "<strop_strategy>pick</strop_strategy> X-Strop-Strategy: pick"
    answer = live.sdk().chat.completions.create(model="tiny", messages=[{"role": "user", "content": tag}])
    assert answer.model_extra["strop"]["strategy"] == "direct"


def test_n_choices_are_n_answers_with_one_bill(live):
    answer = live.sdk().chat.completions.create(
        model="tiny", messages=ASK, n=2, extra_body={"strop": {"strategy": "pick"}}
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)
    assert answer.model_extra["strop"]["bill"]["total"]["calls"] == 4


def test_a_stream_says_role_words_finish_usage_and_done_in_this_order(live):
    stream = live.sdk().chat.completions.create(
        model="tiny", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = chunks_of(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == chunks[-1].usage.prompt_tokens + chunks[-1].usage.completion_tokens
    assert [bool(c.choices[0].finish_reason) for c in chunks[:-1]].index(True) == len(chunks) - 2
    assert chunks[-2].model_extra["strop"]["stopped"] == "done"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    whole = live.sdk().chat.completions.create(model="tiny", messages=ASK, temperature=0)
    again = live.sdk().chat.completions.create(model="tiny", messages=ASK, temperature=0, stream=True)
    assert text_of(chunks_of(again)) == whole.choices[0].message.content


def test_committed_words_are_streamed_word_by_word_and_only_once(live):
    chunks = chunks_of(live.sdk().chat.completions.create(model="tiny", messages=ASK, stream=True))
    contents = [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]
    assert len(contents) > 3
    assert reasoning_of(chunks) == ""


def test_words_committed_by_the_strategy_come_first_and_the_rest_follows(serve):
    server = serve(Scripted({"draft": ["forty-two"]}))
    stream = server.sdk().chat.completions.create(model="tiny:wordy", messages=ASK, stream=True)
    chunks = chunks_of(stream)
    contents = [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]
    assert contents == ["The answer: ", "forty-two"]


def test_progress_counts_drafts_and_never_shows_a_candidate_or_a_critique(serve, doubles):
    server = serve(Scripted({"draft": ["loser", "winner!", "also"]}))
    chunks = chunks_of(
        server.sdk().chat.completions.create(
            model="tiny", messages=ASK, stream=True, extra_body={"strop": {"strategy": "pick", "n": 3}}
        )
    )
    said = reasoning_of(chunks)
    assert "draft 3 of 3" in said
    assert "kept a draft with score 7" in said
    assert "loser" not in json.dumps([chunk.model_dump() for chunk in chunks])
    assert text_of(chunks) == "winner!"
    both = [
        (c.delta.reasoning_content, c.delta.reasoning) for chunk in chunks for c in chunk.choices if c.delta.model_extra
    ]
    assert both
    assert all(one == other for one, other in both)

    server = serve(doubles.always("forty-two"))
    stream = server.sdk().chat.completions.create(model="tiny:revise", messages=ASK, stream=True)
    chunks = chunks_of(stream)
    assert "critique\n" in reasoning_of(chunks)
    assert doubles.CRITIQUE not in json.dumps([chunk.model_dump() for chunk in chunks])
    assert text_of(chunks) == "forty-two"


def test_a_stream_of_two_choices_gives_each_a_role_and_a_finish(live):
    for strategy in ("direct", "pick"):
        chunks = chunks_of(live.sdk().chat.completions.create(model=f"tiny:{strategy}", messages=ASK, n=2, stream=True))
        roles = [c.choices[0].index for c in chunks if c.choices[0].delta.role]
        ends = [c.choices[0].index for c in chunks if c.choices[0].finish_reason]
        assert roles == ends == [0, 1]
        assert text_of(chunks, 0)
        assert text_of(chunks, 1)
        assert [bool((c.model_extra or {}).get("strop")) for c in chunks].count(True) == 1


def test_the_sdks_stream_helper_puts_the_answer_together(live):
    with live.sdk().chat.completions.stream(model="tiny:pick-2", messages=ASK) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


def test_tool_calls_come_back_whole_and_streamed(serve):
    server = serve(Scripted({"draft": [CALL, CALL]}))
    ask: dict[str, Any] = {"model": "tiny", "messages": ASK, "tools": TOOLS}
    answer = server.sdk().chat.completions.create(**ask)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    (call,) = answer.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "weather", '{"city": "Ulm"}')
    with server.sdk().chat.completions.stream(**ask) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Ulm"}
    assert final.choices[0].finish_reason == "tool_calls"


def test_functions_of_the_old_form_are_called_in_the_old_form(serve):
    server = serve(Scripted({"draft": [CALL, CALL]}))
    ask: dict[str, Any] = {
        "model": "tiny",
        "messages": ASK,
        "functions": [WEATHER],
        "function_call": {"name": "weather"},
    }
    answer = server.sdk().chat.completions.create(**ask)
    assert answer.choices[0].message.function_call.name == "weather"
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "function_call"
    asked = server.service.engine.inner.asked[0].chat
    assert [tool.name for tool in asked.tools] == ["weather"]
    assert (asked.tool_choice.mode, asked.tool_choice.name, asked.parallel_tool_calls) == ("named", "weather", False)
    chunks = chunks_of(server.sdk().chat.completions.create(**ask, stream=True))
    calls = [c.choices[0].delta.function_call for c in chunks if c.choices[0].delta.function_call]
    assert [(call.name, call.arguments) for call in calls] == [("weather", '{"city": "Ulm"}')]


def test_logprobs_of_the_returned_words_come_with_the_answer_and_with_the_stream(live):
    ask: dict[str, Any] = {"model": "tiny", "messages": ASK, "logprobs": True, "top_logprobs": 2, "temperature": 0}
    answer = live.sdk().chat.completions.create(**ask)
    content = answer.choices[0].logprobs.content
    assert "".join(token.token for token in content) == answer.choices[0].message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in content)
    for strategy in ("direct", "pick"):
        chunks = chunks_of(live.sdk().chat.completions.create(**{**ask, "model": f"tiny:{strategy}"}, stream=True))
        streamed = [t.token for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
        assert "".join(streamed) == text_of(chunks) != ""


def test_logprobs_without_alternatives_list_none(live):
    answer = live.sdk().chat.completions.create(model="tiny", messages=ASK, logprobs=True)
    assert all(token.top_logprobs == [] for token in answer.choices[0].logprobs.content)


def test_sampling_parameters_reach_the_drafts(serve, doubles):
    server = serve(doubles.always("forty-two"))
    server.sdk().chat.completions.create(
        model="tiny",
        messages=ASK,
        temperature=0.25,
        top_p=0.5,
        presence_penalty=1,
        frequency_penalty=-1,
        max_tokens=9,
        max_completion_tokens=7,
        stop=["a", "b"],
        seed=-5,
        logit_bias={"11": -100, "12": 5},
        extra_body={
            "top_k": 3,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "min_tokens": 2,
            "ignore_eos": True,
            "stop_token_ids": [1, 2],
            "unheard_of": {"x": 1},
        },
    )
    sampling = server.service.engine.inner.asked[0].chat.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.25, 0.5, 3, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1, -1, 1.1)
    assert (sampling.max_tokens, sampling.min_tokens, sampling.ignore_eos) == (7, 2, True)
    assert (sampling.stop, sampling.stop_token_ids, sampling.seed) == (("a", "b"), (1, 2), -5)
    assert sampling.logit_bias == ((11, -100), (12, 5))


def test_a_trace_is_returned_only_when_asked_for(live):
    body = {"strop": {"strategy": "pick", "n": 2, "trace": True}}
    answer = live.sdk().chat.completions.create(model="tiny", messages=ASK, extra_body=body)
    kinds = [line["kind"] for line in answer.model_extra["strop"]["trace"]]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert kinds.count("op") == 2
    chunks = chunks_of(live.sdk().chat.completions.create(model="tiny", messages=ASK, extra_body=body, stream=True))
    assert chunks[-1].model_extra["strop"]["trace"][0]["kind"] == "started"


def test_machine_progress_rides_on_empty_deltas_and_has_no_text(serve):
    server = serve(Scripted({"draft": ["loser", "winner!"]}))
    chunks = chunks_of(
        server.sdk().chat.completions.create(
            model="tiny",
            messages=ASK,
            stream=True,
            extra_body={"strop": {"strategy": "pick", "n": 2, "stream_trace": True}},
        )
    )
    events = [c.model_extra["strop"] for c in chunks if (c.model_extra or {}).get("strop")]
    assert [e["event"] for e in events[:-1]] == ["started", *["op_started"] * 2, *["op_done", "kept"] * 2]
    assert events[-1]["stopped"] == "done"
    assert "loser" not in json.dumps(events)
    carriers = [c.choices[0] for c in chunks if "event" in ((c.model_extra or {}).get("strop") or {})]
    assert all(c.delta.content is None and c.finish_reason is None for c in carriers)


def test_usage_on_every_chunk_only_for_clients_that_ask_for_it(live):
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = chunks_of(
        live.sdk().chat.completions.create(model="tiny", messages=ASK, stream=True, stream_options=options)
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == counts[-2] > 3


def test_a_budget_ends_the_run_and_the_answer_says_so(live):
    answer = live.sdk().chat.completions.create(
        model="tiny", messages=ASK, extra_body={"strop": {"budget": {"tokens": 3}}}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3
    assert answer.model_extra["strop"]["stopped"] == "budget"
    preset = live.sdk().chat.completions.create(model="tiny:short", messages=ASK)
    assert preset.usage.completion_tokens <= 30


def test_content_parts_tool_turns_and_developer_turns_are_read(serve, doubles):
    server = serve(doubles.always("forty-two"))
    messages: list[Any] = [
        {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "short"}]},
        {"role": "user", "content": [{"type": "text", "text": "weather?"}], "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        {"role": "assistant", "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "sun"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]
    server.sdk().chat.completions.create(model="tiny", messages=messages)
    turns = server.service.engine.inner.asked[0].chat.messages
    assert [turn.role for turn in turns] == [
        "developer",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]
    assert turns[0].content == "be\nshort"
    assert turns[1].name == "ann"
    assert turns[2].tool_calls == (ToolCall("c1", "weather", "{}"),)
    assert turns[3].tool_call_id == "c1"
    assert turns[5].tool_call_id == turns[4].tool_calls[0].id
    assert turns[6].content == "no"


def test_response_formats_and_tool_choices_reach_the_drafts(serve, doubles):
    server = serve(doubles.always("{}"))
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "integer"}}}
    formats: list[Any] = [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "it"}},
        {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}},
    ]
    choices: list[Any] = [
        "auto",
        "required",
        {"type": "function", "function": {"name": "weather"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]},
        },
    ]
    for response_format, choice in zip(formats, choices, strict=True):
        server.sdk().chat.completions.create(
            model="tiny", messages=ASK, tools=TOOLS, tool_choice=choice, response_format=response_format
        )
    asked = [op.chat for op in server.service.engine.inner.asked]
    assert [chat.format.kind for chat in asked] == ["text", "json_object", "json_object", "json_schema"]
    assert asked[3].format.schema == schema
    assert asked[3].format.strict
    assert [chat.tool_choice.mode for chat in asked] == ["auto", "required", "named", "required"]
    assert [len(chat.tools) for chat in asked] == [1, 1, 1, 1]
