"""Constrained output is valid whatever the model would rather say: a random model must still write the schema."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

pytest.importorskip("torch", reason="the embedded engine needs torch")
pytest.importorskip("llguidance", reason="constrained decoding needs llguidance")

from strop.server.engine.chat.types import Grammar, TokenRequest
from strop.server.engine.transformers.loop import Engine

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
CHOICES = ("yes", "no", 'a "quoted\\" \n one', "ünïcode")


def request(grammar: Grammar, **settings: Any) -> TokenRequest:
    return TokenRequest((1, 2, 3), n=4, max_tokens=300, seed=1, grammar=grammar, **settings)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
async def test_json_schema_output_validates(engine: Engine, temperature: float) -> None:
    answer = await engine.generate(request(Grammar("json_schema", schema=PERSON), temperature=temperature))
    for result in answer.results:
        assert result.finish == "stop"
        jsonschema.validate(json.loads(result.text), PERSON)


async def test_regex_and_choice(engine: Engine) -> None:
    for result in (await engine.generate(request(Grammar("regex", pattern=r"[a-c]{2,5}-\d{3}")))).results:
        assert re.fullmatch(r"[a-c]{2,5}-\d{3}", result.text)
    for result in (await engine.generate(request(Grammar("choice", choices=CHOICES)))).results:
        assert result.text in CHOICES


async def test_json_object_starts_as_one(engine: Engine) -> None:
    for result in (await engine.generate(request(Grammar("json_object")))).results:
        assert result.text.startswith("{")
        if result.finish == "stop":
            assert isinstance(json.loads(result.text), dict)


async def test_reported_numbers_are_those_of_the_free_model(engine: Engine) -> None:
    """A forced token is as unlikely as the model finds it."""
    free = await engine.generate(TokenRequest((1, 2, 3), temperature=0.0, max_tokens=1, ignore_eos=True))
    [token] = [i for i in range(256) if engine.loaded.tokenizer.decode([i]) == "z"]
    forced = await engine.generate(TokenRequest((1, 2, 3), max_tokens=1, grammar=Grammar("choice", choices=("z",))))
    assert forced.results[0].ids == (token,)
    assert forced.results[0].entropies == pytest.approx(free.results[0].entropies, abs=1e-4)
    labels = await engine.label_logprobs((1, 2, 3), [token])
    assert forced.results[0].logprobs == pytest.approx(labels.logprobs, abs=1e-4)
