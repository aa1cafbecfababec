"""Nothing that a client can send ends the engine: every parameter that reaches it, with values from bad to absurd."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import anyio
import pytest

from strop.server.engine.vllm.engine import VllmEngine
from strop.strategies.kit.errors import BadRequest, StropError
from strop.strategies.kit.ops import Generate, Logprobs
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Draft, Format, Message, Prefix, Sampling, Tokens, Tool, ToolChoice
from tests.server.engine.vllm.conftest import CONTEXT

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("default")]

INF, NAN = math.inf, math.nan
CHAT = Chat((Message("user", "Name three colours."),), Sampling(max_tokens=3, temperature=0.8))
VOCABULARY = 49_152

FATAL_WITHOUT_A_GUARD: dict[str, list[Any]] = {
    "temperature": [0.0, 1e-9, 0.005, 2.0, 2.1, 1e30, -1.0, INF, NAN],
    "top_p": [1.0, 1e-30, 1e-9, 0.0, -0.1, 1.5, NAN, INF],
    "top_k": [0, 1, VOCABULARY, VOCABULARY + 7, 2**31 - 1, 2**40, -1, -5],
    "min_p": [0.0, 1.0, 1.1, -0.1, NAN],
    "presence_penalty": [-2.0, 2.0, 2.5, NAN, INF],
    "frequency_penalty": [-2.0, 2.0, -1e9, NAN, INF],
    "repetition_penalty": [1e-2, 100.0, 1e-30, 1e30, 0.0, -1.0, NAN, INF],
    "max_tokens": [1, CONTEXT, 10**12, 0, -1],
    "min_tokens": [0, 3, 4, 10**9, -1],
    "seed": [0, 1, -1, 2**31, 2**63, 2**64, 10**40, -(10**40)],
    "stop_token_ids": [(0,), (VOCABULARY - 1,), (VOCABULARY,), (-1,), (2**40,), tuple(range(2000))],
    "stop": [("a",), ("",), ("\x00",), ("x" * 5000,), tuple("abc" for _ in range(200)), ("\ud800",)],
    "logit_bias": [
        ((5, 100.0),),
        ((5, -100.0),),
        ((5, 1e38),),
        ((5, NAN),),
        ((5, INF),),
        ((5, -INF),),
        ((VOCABULARY, 1.0),),
        ((-1, 1.0),),
        ((2**40, 1.0),),
        tuple((i, -100.0) for i in range(VOCABULARY)),
    ],
    "top_logprobs": [0, 1, 20, 21, -1, VOCABULARY, 2**40],
    "ignore_eos": [True],
}
PAIRS: list[dict[str, Any]] = [
    {"min_tokens": 3, "stop_token_ids": tuple(range(1000)), "logit_bias": tuple((i, 100.0) for i in range(1000))},
    {"min_tokens": 3, "ignore_eos": True, "stop": ("e",)},
    {"temperature": 0.0, "seed": 1, "top_k": 1, "top_p": 1e-9, "min_p": 1.0},
    {"temperature": 2.0, "repetition_penalty": 100.0, "presence_penalty": -2.0, "frequency_penalty": -2.0},
    {"temperature": 0.01, "repetition_penalty": 0.01, "logit_bias": ((1, 100.0), (2, -100.0)), "seed": 3},
    {"top_logprobs": 20, "min_tokens": 3, "max_tokens": 3, "seed": 2**63},
]


async def survives(engine: VllmEngine, op: Generate | Logprobs) -> str:
    """What became of the op: "answered", or the name of the error; the engine must be the same and well."""
    before = engine._lifeline.latest
    with anyio.fail_after(120):
        try:
            await engine.perform(op, Span("hostile", seed=1))
            became = "answered"
        except StropError as refused:
            became = type(refused).__name__
    assert engine.health().ready, became
    assert engine._lifeline.latest is before
    return became


@pytest.mark.parametrize("name", FATAL_WITHOUT_A_GUARD)
async def test_no_value_of_a_parameter_ends_the_engine(vllm_engine: VllmEngine, name: str) -> None:
    became = {}
    for value in FATAL_WITHOUT_A_GUARD[name]:
        chat = replace(CHAT, sampling=replace(CHAT.sampling, **{name: value}))
        became[str(value)[:40]] = await survives(vllm_engine, Generate(chat, want=("entropy",)))
    assert set(became.values()) <= {"answered", "BadRequest", "ContextTooLong"}, became
    assert "answered" in became.values(), became


@pytest.mark.parametrize("sampling", PAIRS, ids=lambda sampling: "+".join(sampling))
async def test_no_combination_of_parameters_ends_the_engine(vllm_engine: VllmEngine, sampling: dict[str, Any]) -> None:
    chat = replace(CHAT, sampling=replace(CHAT.sampling, **sampling))
    assert await survives(vllm_engine, Generate(chat, n=2)) == "answered"


@pytest.mark.parametrize(
    ("prompt", "want"),
    [
        ((), "BadRequest"),
        ("", "BadRequest"),
        ((VOCABULARY,), "BadRequest"),
        ((-1,), "BadRequest"),
        ((2**70,), "BadRequest"),
        ((5,) * (CONTEXT - 1), "answered"),
        ((5,) * CONTEXT, "ContextTooLong"),
        ((5,) * 100_000, "ContextTooLong"),
        ("\x00\ud800", "BadRequest"),
        ((VOCABULARY - 1,), "answered"),
    ],
    ids=str,
)
async def test_no_prompt_ends_the_engine(vllm_engine: VllmEngine, prompt: Any, want: str) -> None:
    assert await survives(vllm_engine, Generate(replace(CHAT, messages=(), prompt=prompt))) == want


async def test_seeds_of_prompts_that_are_read_in_chunks_do_not_end_a_cpu_engine(vllm_engine: VllmEngine) -> None:
    """vLLM 0.32 dies of this on a CPU: it winds the generator back, which CPU generators cannot."""
    prompts = [tuple(range(100 + i, 700 + i)) for i in range(3)]
    chats = [Chat(prompt=ids, sampling=Sampling(max_tokens=4, temperature=1.0, seed=7)) for ids in prompts]
    texts = []
    for _ in range(2):
        async with anyio.create_task_group() as group:
            for chat in chats:
                group.start_soon(survives, vllm_engine, Generate(chat, n=2))
        texts.append([(await vllm_engine.perform(Generate(chat), Span("x"))).drafts[0].text for chat in chats])
    assert texts[0] == texts[1]


SCHEMAS: list[Any] = [
    {},
    True,
    {"type": "object"},
    {"type": "nonsense"},
    {"type": "string", "pattern": "("},
    {"type": "string", "pattern": "(a+)+$"},
    {"type": "string", "pattern": "(?=a)b"},
    {"type": "string", "minLength": 10**9},
    {"type": "string", "minLength": 5, "maxLength": 2},
    {"type": "integer", "minimum": 10, "maximum": 1},
    {"enum": []},
    {"anyOf": []},
    {"not": {}},
    {"$ref": "#/nowhere"},
    {"$ref": "#"},
    {"$ref": "http://example.invalid/x.json"},
    {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"type": "array", "items": {"$ref": "#"}},
    {"type": "array", "minItems": 10**9},
    {"type": "array", "maxItems": 10**9},
    {"type": "array", "maxItems": 20_000},
    {"anyOf": [{"type": "array", "items": {"type": "array", "maxItems": 4000}, "maxItems": 4000}] * 3},
    {"type": "number", "multipleOf": 0},
    {"type": "object", "properties": {str(i): {"type": "string"} for i in range(500)}, "required": ["0"]},
    {"const": NAN},
    {"const": "\ud800"},
    {"type": "object", "properties": "no"},
    {"type": "object", "required": 5},
]


async def test_no_schema_ends_the_engine(vllm_engine: VllmEngine) -> None:
    deep: Any = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    became = {}
    for schema in [*SCHEMAS, deep]:
        chat = replace(CHAT, format=Format("json_schema", schema=schema))
        became[str(schema)[:60]] = await survives(vllm_engine, Generate(chat))
    assert set(became.values()) <= {"answered", "BadRequest"}, became
    assert became["{'type': 'object'}"] == "answered"


@pytest.mark.parametrize(
    "sampling", [{"min_tokens": 3}, {"ignore_eos": True}, {"stop_token_ids": (2, 90)}, {"seed": 4}]
)
async def test_no_parameter_beside_a_format_ends_the_engine(vllm_engine: VllmEngine, sampling: dict[str, Any]) -> None:
    chat = replace(CHAT, format=Format("json_object"), sampling=replace(CHAT.sampling, max_tokens=20, **sampling))
    assert await survives(vllm_engine, Generate(chat)) in ("answered", "BadRequest")


@pytest.mark.parametrize("bias", [100.0, -100.0])
async def test_a_bias_against_everything_a_format_allows_does_not_end_the_engine(
    vllm_engine: VllmEngine, bias: float
) -> None:
    sampling = replace(CHAT.sampling, logit_bias=tuple((i, bias) for i in range(1000)), temperature=1.0)
    await survives(vllm_engine, Generate(replace(CHAT, format=Format("json_object"), sampling=sampling)))


@pytest.mark.parametrize(
    "parameters", [{}, {"type": "nonsense"}, {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}, {"a": NAN}]
)
async def test_no_tool_ends_the_engine(vllm_engine: VllmEngine, parameters: dict[str, Any]) -> None:
    tools = (Tool("f", "x" * 100, parameters),)
    for choice in (ToolChoice("required"), ToolChoice("named", "f"), ToolChoice("named", "g"), ToolChoice("auto")):
        became = await survives(vllm_engine, Generate(replace(CHAT, tools=tools, tool_choice=choice)))
        assert became in ("answered", "BadRequest"), (parameters, choice)


async def test_no_draft_given_back_ends_the_engine(vllm_engine: VllmEngine) -> None:
    """Prefixes and drafts to weigh come from strategies, which may make them from anything."""
    foreign = Draft("x", tokens=Tokens((VOCABULARY + 5,), ("x",)), finish="length")
    long = Draft("a b " * 3000)
    for draft in (foreign, long, Draft(""), Draft("\ud800"), Draft("\x00" * 10)):
        for op in (Generate(CHAT, prefix=Prefix(draft)), Logprobs(CHAT, (draft, Draft("blue")))):
            became = await survives(vllm_engine, op)
            assert became in ("answered", "BadRequest", "ContextTooLong"), (draft.text[:9], became)


async def test_a_refusal_names_the_parameter(vllm_engine: VllmEngine) -> None:
    chat = replace(CHAT, sampling=replace(CHAT.sampling, logit_bias=((5, NAN),)))
    with pytest.raises(BadRequest) as refused:
        await vllm_engine.perform(Generate(chat), Span("x"))
    assert refused.value.param == "logit_bias"
