"""Parameters mean the same on every engine."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from strop.server.engine.base import Engine
from strop.server.engine.simulated.engine import SimulatedEngine
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.types import Format, Sampling, Tool, ToolChoice
from tests.server.engine.vllm.contracted import GREEDY, Contracted, ask

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("default")]


async def test_a_stop_string_ends_the_text_before_itself(real: Contracted) -> None:
    whole = await real.draft(ask())
    word = whole.text.split()[6]
    stopped = await real.draft(ask(sampling=replace(GREEDY, stop=(word,))))
    assert (stopped.finish, stopped.stop_reason) == ("stop", word)
    assert stopped.text == whole.text[: whole.text.index(word)]


async def test_a_stop_token_ends_the_text_and_is_named(real: Contracted) -> None:
    whole = await real.draft(ask())
    token = whole.tokens.ids[4]
    stopped = await real.draft(ask(sampling=replace(GREEDY, stop_token_ids=(token,))))
    at = whole.tokens.ids.index(token)
    assert (stopped.finish, stopped.stop_reason) == ("stop", token)
    assert stopped.text == "".join(whole.tokens.texts[:at])
    assert stopped.tokens.ids == whole.tokens.ids[: at + 1]


async def test_the_end_of_the_turn_is_a_stop_without_a_reason(real: Contracted) -> None:
    draft = await real.draft(ask(0, replace(GREEDY, max_tokens=100)))
    assert (draft.finish, draft.stop_reason) == ("stop", None)
    assert draft.tokens.texts[-1] == ""


async def test_at_least_min_tokens_come(real: Contracted) -> None:
    short = await real.draft(ask(0, replace(GREEDY, max_tokens=60)))
    longer = await real.draft(ask(0, replace(GREEDY, max_tokens=60, min_tokens=short.n_tokens + 5)))
    assert longer.n_tokens >= short.n_tokens + 5


@pytest.mark.parametrize("live", [True, False])
async def test_a_seed_repeats_every_draft_and_drafts_differ(contracted: Contracted, live: bool) -> None:
    chat = ask(sampling=replace(GREEDY, temperature=1.0, seed=11, max_tokens=12))

    def span() -> Span:
        return Span("same", seed=1, live=(lambda _: None) if live else None)

    first = [draft.text for draft in (await contracted.generate(chat, span(), n=3)).drafts]
    again = [draft.text for draft in (await contracted.generate(chat, span(), n=3)).drafts]
    other = [draft.text for draft in (await contracted.generate(chat.but(seed=12), span(), n=3)).drafts]
    assert first == again
    if not isinstance(contracted.engine, SimulatedEngine):
        assert len({*first, *other}) == 6


async def test_a_bias_of_a_hundred_decides(real: Contracted) -> None:
    forced = await real.draft(ask(sampling=replace(GREEDY, logit_bias=((3145, 100.0),), max_tokens=4)))
    assert forced.tokens.ids == (3145,) * 4
    whole = await real.draft(ask())
    banned = await real.draft(ask(sampling=replace(GREEDY, logit_bias=((whole.tokens.ids[0], -100.0),))))
    assert whole.tokens.ids[0] not in banned.tokens.ids


async def test_words_told_live_are_the_text(contracted: Contracted) -> None:
    told: dict[int, str] = {}

    def live(delta: Delta) -> None:
        told[delta.index] = told.get(delta.index, "") + delta.text

    chat = ask(sampling=replace(GREEDY, temperature=1.0, seed=2, stop=("the",)))
    if Capability.SEED not in contracted.engine.capabilities.offers:
        chat = chat.but(seed=None)
    result = await contracted.generate(chat, Span("live", seed=1, live=live), n=2)
    assert [told.get(i, "") for i in range(2)] == [draft.text for draft in result.drafts]


async def test_an_answer_can_be_held_to_a_schema(real: Contracted) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 20}, "sure": {"type": "boolean"}},
        "required": ["capital", "sure"],
        "additionalProperties": False,
    }
    chat = ask(0, Sampling(temperature=1.0, seed=1, max_tokens=120), format=Format("json_schema", schema=schema))
    for draft in (await real.generate(chat, n=2)).drafts:
        jsonschema.validate(json.loads(draft.text), schema)


async def test_a_tool_can_be_forced(real: Contracted) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tools = (Tool("weather", "tells the weather", parameters), Tool("clock", "tells the time"))
    for choice in (ToolChoice("required"), ToolChoice("named", "weather")):
        draft = await real.draft(ask(0, replace(GREEDY, max_tokens=80), tools=tools, tool_choice=choice))
        assert draft.finish == "tool_calls"
        assert draft.tool_calls[0].name in ("weather", "clock")
        json.loads(draft.tool_calls[0].arguments)


async def test_the_engines_agree_on_a_forced_tool(transformers_engine: Engine, vllm_engine: Engine) -> None:
    tools = (Tool("weather", "tells the weather", {"type": "object", "properties": {"city": {"type": "string"}}}),)
    chat = ask(0, replace(GREEDY, max_tokens=80), tools=tools, tool_choice=ToolChoice("required"))
    calls = []
    for engine in (transformers_engine, vllm_engine):
        calls.append((await Contracted(engine).draft(chat)).tool_calls[0])
    assert [call.name for call in calls] == ["weather", "weather"]
