"""vLLM's tool and reasoning parsers behind our reader; no engine runs."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from strop.server.engine.chat.reading import Turn
from strop.server.engine.vllm.parsers import VllmReader
from strop.strategies.kit.types import Tool
from tests.server.engine.vllm.conftest import smollm2

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

WEATHER = Tool("weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(smollm2())
    found.add_tokens(["<think>", "</think>", "<|python_tag|>"])
    return found


@pytest.fixture(scope="module")
def config() -> Any:
    from vllm.config import ModelConfig

    return ModelConfig(smollm2())


def reader(tokenizer: Any, config: Any, tool: str = "", reasoning: str = "") -> VllmReader:
    return VllmReader(tokenizer, config, (2,), tool, reasoning)


def read(found: VllmReader, text: str, tokenizer: Any, tools: tuple[Tool, ...] = (WEATHER,)) -> Turn:
    ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], 2)
    return found.read(text, ids, tools)


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("hermes", HERMES),
        ("llama3_json", '{"name": "weather", "parameters": {"city": "Paris"}}'),
        ("pythonic", '[weather(city="Paris")]'),
    ],
)
def test_calls_are_found_in_the_words_of_each_model(tokenizer: Any, config: Any, parser: str, text: str) -> None:
    turn = read(reader(tokenizer, config, parser), text, tokenizer)
    assert [(call.name, json.loads(call.arguments)) for call in turn.calls] == [("weather", {"city": "Paris"})]


def test_what_is_no_call_stays_text(tokenizer: Any, config: Any) -> None:
    for parser in ("hermes", "llama3_json", "pythonic"):
        turn = read(reader(tokenizer, config, parser), "It rains.", tokenizer)
        assert (turn.content, turn.calls) == ("It rains.", ())


def test_calls_of_functions_that_nobody_offered_stay_text(tokenizer: Any, config: Any) -> None:
    turn = read(reader(tokenizer, config, "pythonic"), "[delete(city=1)]", tokenizer)
    assert (turn.content, turn.calls) == ("[delete(city=1)]", ())


def test_reasoning_is_taken_out_of_the_answer(tokenizer: Any, config: Any) -> None:
    found = reader(tokenizer, config, "hermes", "deepseek_r1")
    turn = read(found, f"<think>rain or sun?</think>I ask. {HERMES}", tokenizer)
    assert turn.reasoning.strip() == "rain or sun?"
    assert turn.content.strip() == "I ask."
    assert [call.name for call in turn.calls] == ["weather"]


def test_a_parser_that_does_not_exist_is_an_error_at_the_start(tokenizer: Any, config: Any) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        reader(tokenizer, config, "nonsense")


def test_a_parser_that_fails_gives_way_to_our_own(tokenizer: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = reader(tokenizer, config, "hermes")
    monkeypatch.setattr(found, "_parser", lambda *_, **__: 1 / 0)
    assert [call.name for call in read(found, HERMES, tokenizer).calls] == ["weather"]
