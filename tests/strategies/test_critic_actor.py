"""Critic and actor: the critic's role, revisions behind the gate, the vote, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted, Simulated

WRONG, RIGHT = "Step 2 is off.\n\nVERDICT: wrong", "All good.\n\nVERDICT: correct"


async def test_the_critic_is_a_model_of_its_own_and_sees_question_and_answer_only(serve: Any) -> None:
    engine = Scripted({"draft": ["5"], "critique": [RIGHT]})
    await serve("critic_actor", engine, critic="reviewer")
    assert [op.model for op in engine.asked] == ["policy", "reviewer"]
    chat = engine.asked[1].chat
    assert [m.role for m in chat.messages] == ["system", "user"]
    assert "<candidate fence>\n5\n</candidate fence>" in chat.messages[1].content
    assert chat.answers is False


async def test_a_rejected_answer_is_revised_and_the_gate_decides(serve: Any) -> None:
    script = {"draft": ["\\boxed{5}"], "critique": [WRONG], "revise": ["\\boxed{4}"]}
    assert (await serve("critic_actor", Scripted(script | {"pairwise": [[0, 1]]}))).texts == ["\\boxed{4}"]
    for values in ([0.5, 0.5], [1, 0], [None, 1], [0, None]):
        assert (await serve("critic_actor", Scripted(script | {"pairwise": [values]}))).texts == ["\\boxed{5}"]


@pytest.mark.parametrize("reply", [RIGHT, "Hard to say.", Draft("VERDICT: wrong", "length", n_tokens=2)])
async def test_a_content_or_unreadable_critic_changes_nothing(serve: Any, reply: Any) -> None:
    assert (await serve("critic_actor", Scripted({"draft": ["5"], "critique": [reply]}), rounds=3)).texts == ["5"]


async def test_samples_are_revised_on_their_own_and_then_vote(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": ["\\boxed{5}", "a \\boxed{4}", "\\boxed{3}"],
            "critique": lambda op: RIGHT if "boxed{4}" in op.chat.messages[1].content else WRONG,
            "revise": lambda op: "b \\boxed{4}" if "boxed{5}" in op.chat.messages[-1].content else "\\boxed{2}",
            "pairwise": lambda op: [0, 1],
        }
    )
    assert (await serve("critic_actor", engine, n=3)).texts == ["b \\boxed{4}"]
    assert engine.asked[0].chat.sampling.temperature == 0.8


async def test_a_kept_answer_ends_its_loop_unless_the_next_try_is_different(serve: Any) -> None:
    script = {"draft": ["\\boxed{5}"], "critique": [WRONG] * 2, "revise": ["\\boxed{4}", "\\boxed{3}"]}
    gates = {"pairwise": [[1, 0], [0, 1]]}
    assert (await serve("critic_actor", Scripted(script | gates), rounds=2)).texts == ["\\boxed{5}"]
    engine = Scripted(script | gates)
    served = await serve("critic_actor", engine, rounds=2, avoid=True, temperature_step=0.3)
    assert served.texts == ["\\boxed{3}"]
    second = [op.chat for op in engine.asked if op.tag == "revise"][1]
    assert "<tried fence>\n\\boxed{4}\n</tried fence>" in second.messages[-1].content
    assert second.sampling.temperature == 0.3


async def test_tool_calls_and_the_asked_shape_are_never_lost(serve: Any, ask: Any) -> None:
    call = Draft("", "tool_calls", (ToolCall("1", "look", "{}"),), n_tokens=3)
    engine = Scripted({"draft": [call], "critique": [WRONG], "revise": ["Words."]})
    assert (await serve("critic_actor", engine, gate="none")).outcome.answers[0].tool_calls == call.tool_calls
    question = replace(ask(), format=Format("json_object"))
    script = {"draft": ["{}"], "critique": [WRONG], "revise": ["{"], "json_object": [[True], [True, False], [True]]}
    assert (await serve("critic_actor", Scripted(script), question, gate="none")).texts == ["{}"]


async def test_requests_it_cannot_serve_are_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="cannot fill 2 choices"):
        await serve("critic_actor", Scripted({}), choices=2)
    with pytest.raises(BadRequest, match="needs messages"):
        await serve("critic_actor", Scripted({}), Chat((), prompt="Once upon"))


async def test_the_answer_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"draft": ["5"], "critique": [WRONG]}
    gate = Gated(Scripted(script), holds=lambda op, span: op.tag == "revise")
    served = await serve("critic_actor", gate, budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["5"], "deadline", 1)
    served = await serve("critic_actor", Scripted(script), budget=Budget(calls=2))
    assert (served.texts, served.outcome.stopped) == (["5"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1000


async def test_accuracy_and_cost_follow_critic_actor_and_gate(serve: Any) -> None:
    p, t, keeps, fixes = 0.6, 0.8, 0.2, 0.5
    engine = Simulated(p, t, confidence=keeps, insight=fixes, length=8)
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("critic_actor", engine, question, seed=i)
        right += engine.brain.is_right(question, served.texts[0])
        calls += served.outcome.bill.total.calls
    law = p * (1 - (1 - t) * (1 - keeps) * (1 - t)) + (1 - p) * t * fixes * t
    cost = 2 + p * (1 - t) * (2 - keeps) + (1 - p) * t * (1 + fixes)
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
    assert abs(calls / RUNS - cost) < 0.12
