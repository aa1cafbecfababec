"""Chats to ids, and tool calls out of text."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

pytest.importorskip("torch", reason="the embedded engine needs torch")

from strop.server.engine.chat.template import ChatTemplate
from strop.server.engine.chat.toolcalls import Call, forced_call, parse_calls
from strop.server.engine.chat.types import TokenRequest
from strop.server.engine.transformers.load import Loaded
from strop.server.engine.transformers.loop import Engine
from tests.server.engine.transformers.tiny import TEMPLATE, make_tokenizer

USER = {"role": "user", "content": "hi"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "tells the weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 6}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def template(jinja: str | None = TEMPLATE) -> ChatTemplate:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = jinja
    return ChatTemplate(Loaded(SimpleNamespace(), tokenizer, "tiny", 512, (261,), jinja is not None))


def test_ids_are_the_template_tokenised() -> None:
    made = template()
    text = "<|user|>hi<eos><|assistant|>"
    assert made.text([USER]) == text
    assert made.ids([USER]) == tuple(make_tokenizer().encode(text, add_special_tokens=False))
    assert 261 in made.ids([USER])


@pytest.mark.parametrize("prefix", ["The", "The ", "two\n\n", ""])
def test_a_final_assistant_turn_is_left_open_where_it_ends(prefix: str) -> None:
    made = template()
    assert (
        made.text([USER, {"role": "assistant", "content": prefix}], continue_final=True) == made.text([USER]) + prefix
    )


def test_only_an_assistant_turn_can_be_continued() -> None:
    with pytest.raises(ValueError, match="assistant message"):
        template().text([USER], continue_final=True)
    with pytest.raises(ValueError, match="no message"):
        template().text([])


def test_a_template_that_refuses_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="only users"):
        template("{{ raise_exception('only users') }}").text([USER])


def test_without_a_template_turns_are_lines() -> None:
    assert template(None).text([USER]) == "user: hi\n\nassistant:"


def test_a_template_that_knows_tools_gets_them() -> None:
    made = template(TEMPLATE + "{% if tools %}{{ tools | tojson }}{% endif %}")
    assert made.speaks_tools
    assert "weather" in made.text([USER], [WEATHER])


def test_a_template_that_ignores_tools_is_told_about_them_in_the_system_turn() -> None:
    made = template()
    assert not made.speaks_tools
    alone = made.text([USER], [WEATHER])
    assert alone.startswith("<|system|>You can call functions.")
    assert json.dumps(WEATHER) in alone
    assert '{"name": "function name", "arguments": {"argument name": "value"}}' in alone
    joined = made.text([{"role": "system", "content": "Be kind."}, USER], [WEATHER])
    assert joined.startswith("<|system|>Be kind.\n\nYou can call")
    assert joined.count("<|system|>") == 1


def test_past_calls_and_results_become_ordinary_turns() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "{rain}"},
    ]
    text = template().text(turns, [WEATHER])
    assert '<|assistant|><tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><eos>' in text
    assert "<|user|><tool_response>\n{rain}\n</tool_response><eos>" in text


CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'
TAGGED = '{"name": "weather", "arguments": {"city": "</tool_call>"}}'
WANT = Call("weather", '{"city": "Oslo"}')


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("just words", "just words", ()),
        (f"<tool_call>\n{CALL}\n</tool_call>", "", (WANT,)),
        (f"I ask.\n<tool_call>{CALL}</tool_call> <tool_call>{CALL}</tool_call>\nDone", "I ask.\n \nDone", (WANT, WANT)),
        (f"<tool_call>\n{CALL}", "", (WANT,)),
        (CALL, "", (WANT,)),
        (f"```json\n{CALL}\n```", "", (WANT,)),
        (f"[{CALL}, {CALL}]", "", (WANT, WANT)),
        ('{"name": "weather", "parameters": {"city": "Oslo"}}', "", (WANT,)),
        ('{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}', "", (WANT,)),
        (f"<tool_call>{TAGGED}</tool_call>", "", (Call("weather", '{"city": "</tool_call>"}'),)),
        ('{"name": "unknown", "arguments": {}}', '{"name": "unknown", "arguments": {}}', ()),
        ('{"name": ["weather"], "arguments": {}}', '{"name": ["weather"], "arguments": {}}', ()),
        ("<tool_call>not json</tool_call>", "<tool_call>not json</tool_call>", ()),
        ('{"answer": 4}', '{"answer": 4}', ()),
        (" 42 ", " 42 ", ()),
        ("[]", "[]", ()),
    ],
)  # fmt: skip
def test_calls_are_found_and_the_rest_stays(text: str, content: str, calls: tuple[Call, ...]) -> None:
    parsed = parse_calls(text, ["weather"])
    assert (parsed.content, parsed.calls) == (content, calls)


@pytest.mark.parametrize("name", [None, "weather"])
async def test_a_forced_call_is_a_call(engine: Engine, name: str | None) -> None:
    pytest.importorskip("llguidance", reason="forcing a call needs llguidance")
    tools: list[dict[str, Any]] = (
        [WEATHER] if name else [WEATHER, {"type": "function", "function": {**WEATHER["function"], "name": "other"}}]
    )  # type: ignore[dict-item]
    request = TokenRequest((1,), n=3, seed=1, max_tokens=300, grammar=forced_call(tools, name))
    for result in (await engine.generate(request)).results:
        [call] = parse_calls(result.text, ["weather", "other"]).calls
        assert call.name == (name or call.name)
        jsonschema.validate(json.loads(call.arguments), WEATHER["function"]["parameters"])  # type: ignore[index]


def test_forcing_an_unknown_tool_is_refused() -> None:
    with pytest.raises(ValueError, match="no tool named 'x'"):
        forced_call([CLOCK], "x")
    with pytest.raises(ValueError, match="no tools"):
        forced_call([])


def test_shared_definitions_of_a_tool_stay_reachable() -> None:
    parameters = {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}, "$defs": {"P": {"type": "integer"}}}
    grammar = forced_call([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    assert grammar.schema is not None
    jsonschema.validate({"name": "f", "arguments": {"p": 1}}, grammar.schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "f", "arguments": {"p": "x"}}, grammar.schema)
    assert "$defs" in parameters
