"""openai-python against the whole server: every way to choose a strategy, every strategy, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from strop.server.settings import Preset

ASK: list[Any] = [{"role": "user", "content": "What is 20 + 22?"}]
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
WAYS = ("body", "preset", "path", "header", "header_json", "model", "effort", "default")


@pytest.fixture(scope="module")
def server(tools: Any) -> Any:
    presets = {f"my-{n.replace('_', '-')}": Preset(strategy=n, knobs=tools.KNOBS[n]) for n in tools.SERVED}
    with tools.Whole(presets=presets, effort_map=dict(zip(EFFORTS, tools.SERVED, strict=False))) as running:
        yield running


def way(name: str, by: str, knobs: dict[str, Any], efforts: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Base path and SDK arguments that choose the strategy `name` in the given way."""
    preset = f"my-{name.replace('_', '-')}"
    with_knobs = {"extra_body": {"strop": knobs}}
    match by:
        case "body":
            return "/v1", {"model": "simulated", "extra_body": {"strop": {"strategy": name, **knobs}}}
        case "preset":
            return "/v1", {"model": "simulated", "extra_body": {"strop": {"preset": preset}}}
        case "path":
            return f"/v1/strategies/{name}", {"model": "simulated", **with_knobs}
        case "header":
            return "/v1", {"model": "simulated", "extra_headers": {"X-Strop-Strategy": name}, **with_knobs}
        case "header_json":
            told = json.dumps({"strategy": name, **knobs})
            return "/v1", {"model": "simulated", "extra_headers": {"X-Strop-Strategy": told}}
        case "model":
            return "/v1", {"model": f"simulated:{preset}"}
        case _:
            effort = next(effort for effort, chosen in efforts.items() if chosen == name)
            return "/v1", {"model": "simulated", "reasoning_effort": effort, **with_knobs}


@pytest.mark.parametrize("by", WAYS[:-1])
def test_the_sdk_chooses_every_strategy_in_every_way(server, tools, name, by):
    efforts = server.service.settings.effort_map
    if by == "effort" and name not in efforts.values():
        pytest.skip("OpenAI has seven efforts, so a map has seven entries")
    knobs = tools.KNOBS[name]
    path, fields = way(name, by, knobs, efforts)
    chat = server.sdk(path).chat.completions
    whole = chat.create(messages=ASK, seed=3, **fields)
    about = whole.model_extra["strop"]
    assert (about["strategy"], about["selected_by"]) == (name, {"preset": "body", "header_json": "header"}.get(by, by))
    assert about["knobs"] == {**about["knobs"], **knobs}
    text, last = "", None
    for chunk in chat.create(messages=ASK, seed=3, stream=True, stream_options={"include_usage": True}, **fields):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            last = (chunk.model_extra or {}).get("strop") or last
        usage = chunk.usage
    assert text == whole.choices[0].message.content
    assert last["strategy"] == name
    assert last["knobs"] == about["knobs"]
    total = last["bill"]["total"]
    assert usage.completion_tokens == total["completion_tokens"] + total["injected_tokens"]


@pytest.mark.parametrize("by", ["body", "path"])
def test_the_responses_api_of_the_sdk_too(server, tools, name, by):
    path, fields = way(name, by, tools.KNOBS[name], {})
    responses = server.sdk(path).responses
    whole = responses.create(input="What is 20 + 22?", temperature=0.0, **fields)
    assert whole.model_extra["strop"]["strategy"] == name
    with responses.stream(input="What is 20 + 22?", temperature=0.0, **fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.model_extra["strop"]["strategy"] == name
    assert kinds[-1] == "response.completed"
    assert final.output_text


def test_without_any_choice_the_default_answers(server):
    answer = server.sdk().chat.completions.create(model="simulated", messages=ASK)
    assert answer.model_extra["strop"]["selected_by"] == "default"
    assert answer.model_extra["strop"]["strategy"] == "direct"


def test_the_sdk_lists_every_preset_and_each_of_them_answers(server, tools):
    ids = [model.id for model in server.sdk().models.list()]
    assert ids[0] == "simulated"
    assert len(ids) == 1 + len(tools.SERVED)
    for id_ in ids:
        assert server.sdk().models.retrieve(id_).id == id_
        assert server.sdk().chat.completions.create(model=id_, messages=ASK).choices[0].message.content


def test_a_strategy_that_this_engine_cannot_run_is_refused_with_a_reason(server, tools):
    for name in tools.LACKING:
        answer = server.ask(strop={"strategy": name, **tools.KNOBS[name]})
        assert answer.status_code == 400, name
        assert answer.json()["error"]["code"] in ("unsupported_capability", "unknown_scorer"), name
