"""ART: sub-questions, the revision, the truster, laws."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.art import open_questions
from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Brain, Gated, Scripted
from strop.strategies.testing.forms import Clerk


def asked(**answered: Any) -> str:
    return json.dumps({"questions": [{"question": f"{name}?", "answered": a} for name, a in answered.items()]})


async def test_an_open_question_leads_to_a_revision_that_the_truster_must_prefer(serve: Any) -> None:
    script = {"draft": ["\\boxed{5}"], "ask": [asked(sum="yes", unit="no")], "refine": ["\\boxed{4}"]}
    engine = Scripted(script | {"pairwise": [[0, 1]]})
    assert (await serve("art", engine)).texts == ["\\boxed{4}"]
    assert engine.tags == ["draft", "ask", "refine", "pairwise"]
    assert "<open fence>\n- unit?\n</open fence>" in engine.asked[2].chat.messages[-1].content
    for values in ([0.5, 0.5], [1, 0], [None, 1], [0, None]):
        assert (await serve("art", Scripted(script | {"pairwise": [values]}))).texts == ["\\boxed{5}"]


async def test_an_answer_that_settles_everything_is_served(serve: Any) -> None:
    served = await serve("art", Scripted({"draft": ["5"], "ask": [asked(sum="yes", unit=True)]}))
    assert (served.texts, served.notes["stopped"]) == (["5"], "nothing is open")


@pytest.mark.parametrize(
    "reply", ["Fine.", "{}", '{"questions": []}', '{"questions": ["sum?"]}', asked(sum="perhaps", unit="no")]
)
async def test_questions_that_cannot_be_read_are_no_evidence(serve: Any, reply: str) -> None:
    assert open_questions(reply) is None
    served = await serve("art", Scripted({"draft": ["5"], "ask": [reply]}))
    assert (served.texts, served.notes["stopped"]) == (["5"], "the questions could not be read")


async def test_the_asker_is_a_model_of_its_own_in_a_fresh_context(serve: Any) -> None:
    engine = Scripted({"draft": ["5"], "ask": [asked(sum="yes")]})
    await serve("art", engine)
    assert [op.model for op in engine.asked] == ["policy", "asker"]
    assert "<candidate fence>\n5\n</candidate fence>" in engine.asked[1].chat.messages[1].content
    assert engine.asked[1].chat.answers is False


async def test_tool_calls_and_the_asked_shape_are_never_lost(serve: Any, ask: Any) -> None:
    call = Draft("", "tool_calls", (ToolCall("1", "look", "{}"),), n_tokens=3)
    engine = Scripted({"draft": [call], "ask": [asked(sum="no")], "refine": ["Words."]})
    assert (await serve("art", engine, gate="none")).outcome.answers[0].tool_calls == call.tool_calls
    question = replace(ask(), format=Format("json_object"))
    script = {"draft": ["{}"], "ask": [asked(sum="no")], "refine": ["{"], "json_object": [[True, False]]}
    assert (await serve("art", Scripted(script), question, gate="none")).texts == ["{}"]


async def test_a_raw_prompt_is_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="art needs messages"):
        await serve("art", Scripted({}), Chat((), prompt="Once upon"))


async def test_the_answer_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"draft": ["5"], "ask": [asked(sum="no")]}
    gate = Gated(Scripted(script), holds=lambda op, span: op.tag == "refine")
    served = await serve("art", gate, budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["5"], "deadline", 1)
    served = await serve("art", Scripted(script), budget=Budget(calls=2))
    assert (served.texts, served.outcome.stopped) == (["5"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1000


def _answered(brain: Brain, chat: Chat, key: str) -> str:
    form = chat.messages[-1].content
    question, text = (form.partition(f"<{name} fence>\n")[2].partition("\n</")[0] for name in ("question", "candidate"))
    return asked(sum="yes" if brain.approves(question, text, key) else "no")


async def test_accuracy_and_cost_follow_the_asker_and_the_truster(serve: Any) -> None:
    p, t, keeps, fixes = 0.5, 0.8, 0.3, 0.6
    engine = Clerk(p, t, forms={"ask": _answered}, confidence=keeps, insight=fixes, length=8)
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("art", engine, question, seed=i)
        right += engine.brain.is_right(question, served.texts[0])
        calls += served.outcome.bill.total.calls
    law = p * (1 - (1 - t) * (1 - keeps) * (1 - t)) + (1 - p) * t * fixes * t
    cost = 2 + p * (1 - t) * (2 - keeps) + (1 - p) * t * (1 + fixes)
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
    assert abs(calls / RUNS - cost) < 0.12
