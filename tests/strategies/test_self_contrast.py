"""Self-contrast: approaches, the contrast, revisions behind the gate, laws."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, Message, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted
from strop.strategies.testing.forms import Clerk


def plan(*ways: Any) -> str:
    return json.dumps({"approaches": list(ways)})


def boxed(*answers: int) -> list[str]:
    return [f"way {place}: \\boxed{{{answer}}}" for place, answer in enumerate(answers)]


THREE = plan("add", "count", "draw")


async def test_answers_that_differ_are_contrasted_and_revised_and_the_gate_decides(serve: Any) -> None:
    script = {"plan": [THREE], "solve": boxed(5, 4, 4), "contrast": ["- the carry"], "revise": ["\\boxed{7}"] * 2}
    engine = Scripted(script | {"pairwise": [[0, 1]]})
    assert (await serve("self_contrast", engine, approaches=3)).texts == ["\\boxed{7}"]
    assert engine.tags == ["plan", *["solve"] * 3, "contrast", "revise", "revise", "pairwise"]
    for values in ([0.5, 0.5], [1, 0], [None, 1], [0, None]):
        served = await serve("self_contrast", Scripted(script | {"pairwise": [values]}), approaches=3)
        assert served.texts == ["way 1: \\boxed{4}"]


async def test_each_approach_is_a_hint_behind_the_fence_in_the_last_user_turn(serve: Any, ask: Any) -> None:
    turns = (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Yes?"),
        Message("user", "2+2"),
    )
    question = replace(ask(max_tokens=30), messages=turns)
    engine = Scripted({"plan": [THREE], "solve": boxed(4, 4, 4)})
    await serve("self_contrast", engine, question, approaches=3)
    chat = engine.asked[1].chat
    assert chat.messages[:3] == turns[:3]
    assert chat.messages[3].content.startswith("2+2\n\n")
    assert chat.messages[3].content.endswith("<approach fence>\nadd\n</approach fence>")
    assert (chat.sampling.max_tokens, chat.answers) == (30, True)


async def test_answers_that_agree_are_not_contrasted(serve: Any) -> None:
    engine = Scripted({"plan": [THREE], "solve": boxed(4, 4, 4)})
    assert (await serve("self_contrast", engine, approaches=3)).texts == ["way 0: \\boxed{4}"]


@pytest.mark.parametrize("reply", ["Think.", "{}", '{"approaches": "add"}', plan("add"), plan(1, 2, "")])
async def test_a_plan_that_cannot_be_read_gives_plain_samples(serve: Any, reply: str) -> None:
    engine = Scripted({"plan": [reply], "draft": boxed(4, 4, 4)})
    assert (await serve("self_contrast", engine, approaches=3)).texts == ["way 0: \\boxed{4}"]


async def test_one_draft_per_answer_takes_part_the_leader_first(serve: Any) -> None:
    engine = Scripted({"plan": [THREE], "solve": boxed(5, 4, 4), "contrast": ["- x"], "revise": boxed(4, 4)})
    await serve("self_contrast", engine, approaches=3)
    seen = next(op.chat.messages[-1].content for op in engine.asked if op.tag == "contrast")
    assert "<answers fence>\nway 1: \\boxed{4}\n\n---\n\nway 0: \\boxed{5}\n</answers fence>" in seen


async def test_tool_calls_and_the_asked_shape_are_never_lost(serve: Any, ask: Any) -> None:
    calls = [Draft("", "tool_calls", (ToolCall("1", "look", f'{{"x": {x}}}'),), n_tokens=3) for x in (1, 2)]
    script = {"plan": [plan("a", "b")], "contrast": ["- x"], "revise": ["Words.", "Words."]}
    served = await serve("self_contrast", Scripted(script | {"solve": calls}), approaches=2, gate="none")
    assert served.outcome.answers[0].tool_calls == calls[0].tool_calls
    question = replace(ask(), format=Format("json_object"))
    shape = {"json_object": lambda op: [d.text.endswith("}") for d in op.drafts]}
    engine = Scripted(script | shape | {"solve": ['{"x": 1}', '{"x": 2}'], "revise": ["{", "{"]})
    assert (await serve("self_contrast", engine, question, approaches=2, gate="none")).texts == ['{"x": 1}']


async def test_a_raw_prompt_is_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="self_contrast needs messages"):
        await serve("self_contrast", Scripted({}), Chat((), prompt="Once upon"))


async def test_the_leader_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"plan": [THREE], "solve": boxed(5, 4, 4), "contrast": ["- x"]}
    gate = Gated(Scripted(script), holds=lambda op, span: op.tag == "revise")
    served = await serve("self_contrast", gate, approaches=3, budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["way 1: \\boxed{4}"], "deadline", 2)
    served = await serve("self_contrast", Scripted(script), approaches=3, budget=Budget(calls=4))
    assert (served.texts, served.outcome.stopped) == (["way 1: \\boxed{4}"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1000


async def test_accuracy_and_cost_follow_the_vote_the_revision_of_its_leader_and_the_gate(serve: Any) -> None:
    """With one rival answer two drafts are revised; where the revisions still differ, the leader's goes first."""
    p, t, keeps, fixes = 0.6, 0.8, 0.7, 0.6
    forms = {"plan": lambda *_: THREE}
    engine = Clerk(p, t, forms=forms, rivals=1, confidence=keeps, insight=fixes, length=8)
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("self_contrast", engine, question, seed=i, approaches=3)
        right += engine.brain.is_right(question, served.texts[0])
        calls += served.outcome.bill.total.calls
    leads, trails = 3 * p**2 * (1 - p), 3 * p * (1 - p) ** 2
    law = p**3 + leads * (1 - (1 - keeps) * (1 - t)) + trails * fixes * t
    cost = 4 + leads * (4 - keeps) + trails * (3 + fixes)
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
    assert abs(calls / RUNS - cost) < 0.25
