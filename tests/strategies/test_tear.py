"""TEaR: errors by severity, one gated revision, laws."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.tear import estimate
from strop.strategies.testing import Brain, Gated, Scripted
from strop.strategies.testing.forms import Clerk


def errors(critical: Any = (), major: Any = (), minor: Any = ()) -> str:
    return json.dumps({"critical": critical, "major": major, "minor": minor})


async def test_a_grave_error_leads_to_one_revision_that_the_gate_must_prefer(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": ["\\boxed{5}"],
            "estimate": [errors(critical=["the sum"], minor=["tone"])],
            "refine": ["\\boxed{4}"],
            "pairwise": [[0, 1]],
        }
    )
    served = await serve("tear", engine)
    assert served.texts == ["\\boxed{4}"]
    assert engine.tags == ["draft", "estimate", "refine", "pairwise"]
    asked = engine.asked[2].chat.messages[-1].content
    assert "<errors fence>\n- critical: the sum\n- minor: tone\n</errors fence>" in asked


@pytest.mark.parametrize(
    ("severity", "found", "revised"),
    [
        ("critical", errors(major=["x"], minor=["y"]), False),
        ("critical", errors(critical=["x"]), True),
        ("major", errors(minor=["y"]), False),
        ("major", errors(major=["x"]), True),
        ("minor", errors(minor=["y"]), True),
        ("minor", errors(), False),
    ],
)
async def test_only_an_error_that_is_grave_enough_is_worth_a_revision(
    serve: Any, severity: str, found: str, revised: bool
) -> None:
    engine = Scripted({"draft": ["\\boxed{5}"], "estimate": [found], "refine": ["\\boxed{4}"]})
    served = await serve("tear", engine, severity=severity, gate="none")
    assert served.texts == ["\\boxed{4}" if revised else "\\boxed{5}"]


@pytest.mark.parametrize("reply", ["Looks good.", "{}", '{"verdict": "wrong"}', '{"critical": ["x"'])
async def test_an_estimate_that_cannot_be_read_is_no_evidence(serve: Any, reply: str) -> None:
    served = await serve("tear", Scripted({"draft": ["5"], "estimate": [reply]}), severity="minor")
    assert (served.texts, served.notes["stopped"]) == (["5"], "the estimate could not be read")


@pytest.mark.parametrize("nothing", [None, "", [], "no-error", "None.", ["No errors"], [""], [None]])
def test_the_ways_to_say_that_there_is_no_error(nothing: Any) -> None:
    assert estimate(errors(nothing, nothing, nothing)) == {"critical": [], "major": [], "minor": []}


def test_errors_written_as_text_or_as_objects_are_errors() -> None:
    found = estimate(json.dumps({"critical": "the sum", "major": [{"where": "line 1"}]}))
    assert found == {"critical": ["the sum"], "major": ['{"where": "line 1"}'], "minor": []}


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.9, 0.1], [None, 1], [0, None]])
async def test_the_answer_stays_on_a_tie_and_without_a_score(serve: Any, values: list[Any]) -> None:
    script = {"draft": ["\\boxed{5}"], "estimate": [errors(["x"])], "refine": ["\\boxed{4}"], "judge": [values]}
    assert (await serve("tear", Scripted(script), gate="judge")).texts == ["\\boxed{5}"]


async def test_the_estimate_is_made_in_a_fresh_context(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": ["5"], "estimate": [errors()]})
    await serve("tear", engine, ask(max_tokens=7, stop=("x",)))
    chat = engine.asked[1].chat
    assert [m.role for m in chat.messages] == ["system", "user"]
    assert "<candidate fence>\n5\n</candidate fence>" in chat.messages[1].content
    assert (chat.sampling.temperature, chat.sampling.stop, chat.answers) == (0.0, (), False)


async def test_tool_calls_and_the_asked_shape_are_never_lost(serve: Any, ask: Any) -> None:
    call = Draft("", "tool_calls", (ToolCall("1", "look", "{}"),), n_tokens=3)
    engine = Scripted({"draft": [call], "estimate": [errors(["x"])], "refine": ["Words."]})
    assert (await serve("tear", engine, gate="none")).outcome.answers[0].tool_calls == call.tool_calls
    question = replace(ask(), format=Format("json_object"))
    script = {"draft": ["{}"], "estimate": [errors(["x"])], "refine": ["{"], "json_object": [[True, False]]}
    assert (await serve("tear", Scripted(script), question, gate="none")).texts == ["{}"]


async def test_a_raw_prompt_is_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="tear needs messages"):
        await serve("tear", Scripted({}), Chat((), prompt="Once upon"))


async def test_the_answer_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"draft": ["5"], "estimate": [errors(["x"])]}
    gate = Gated(Scripted(script), holds=lambda op, span: op.tag == "refine")
    served = await serve("tear", gate, budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["5"], "deadline", 1)
    served = await serve("tear", Scripted(script), budget=Budget(calls=2))
    assert (served.texts, served.outcome.stopped) == (["5"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1200


def _estimated(brain: Brain, chat: Chat, key: str) -> str:
    form = chat.messages[-1].content
    question, text = (form.partition(f"<{name} fence>\n")[2].partition("\n</")[0] for name in ("question", "candidate"))
    return errors(minor=["tone"]) if brain.approves(question, text, key) else errors(major=["the sum"])


async def test_accuracy_and_cost_follow_the_estimate_and_the_gate(serve: Any) -> None:
    p, t, keeps, fixes = 0.6, 0.8, 0.3, 0.5
    engine = Clerk(p, t, forms={"estimate": _estimated}, confidence=keeps, insight=fixes, length=8)
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("tear", engine, question, seed=i)
        right += engine.brain.is_right(question, served.outcome.answers[0].text)
        calls += served.outcome.bill.total.calls
    law = p * (1 - (1 - t) * (1 - keeps) * (1 - t)) + (1 - p) * t * fixes * t
    objects, differs = p * (1 - t) + (1 - p) * t, p * (1 - t) * (1 - keeps) + (1 - p) * t * fixes
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
    assert abs(calls / RUNS - (2 + objects + differs)) < 0.1
