"""If or else: the confident review, the decision, its gate, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted, Simulated

FIRST, SECOND = "so \\boxed{5}", "rather \\boxed{4}"


async def test_an_answer_that_the_review_keeps_costs_two_calls(serve: Any) -> None:
    engine = Scripted({"draft": [FIRST], "review": ["still \\boxed{5}"]})
    served = await serve("ioe", engine)
    assert served.texts == [FIRST]
    assert engine.tags == ["draft", "review"]
    assert served.notes["stopped"] == "the revision gives the same answer"


async def test_two_different_answers_lead_to_a_decision_that_the_gate_must_prefer(serve: Any) -> None:
    engine = Scripted({"draft": [FIRST], "review": [SECOND], "decide": ["\\boxed{4}"], "pairwise": [[0.1, 0.9]]})
    assert (await serve("ioe", engine)).texts == ["\\boxed{4}"]
    assert engine.tags == ["draft", "review", "decide", "pairwise"]


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.9, 0.1], [None, 0.9], [0.1, None]])
async def test_the_first_answer_stays_on_a_tie_and_without_a_score(serve: Any, values: list[Any]) -> None:
    script = {"draft": [FIRST], "review": [SECOND], "decide": ["\\boxed{4}"], "judge": [values]}
    assert (await serve("ioe", Scripted(script), gate="judge")).texts == [FIRST]


async def test_a_decision_for_the_first_answer_needs_no_gate(serve: Any) -> None:
    engine = Scripted({"draft": [FIRST], "review": [SECOND], "decide": ["\\boxed{5} it is"]})
    assert (await serve("ioe", engine)).texts == [FIRST]


async def test_answers_that_cannot_be_compared_are_decided_too(serve: Any) -> None:
    engine = Scripted({"draft": ["a\npoem"], "review": ["an\node"], "decide": ["an\nelegy"]})
    assert (await serve("ioe", engine, gate="none")).texts == ["an\nelegy"]


async def test_the_turns_follow_the_question_under_its_rules_with_the_answers_behind_the_fence(
    serve: Any, ask: Any
) -> None:
    question = ask(max_tokens=50, stop=("x",))
    engine = Scripted({"draft": [FIRST], "review": [SECOND], "decide": [FIRST]})
    await serve("ioe", engine, question)
    for op, shown in zip(engine.asked[1:], ([FIRST], [FIRST, SECOND]), strict=True):
        assert op.chat.messages[:1] == question.messages
        assert (op.chat.sampling.max_tokens, op.chat.sampling.stop, op.chat.answers) == (50, ("x",), True)
        for text in shown:
            assert f" fence>\n{text}\n</" in op.chat.messages[1].content


async def test_tool_calls_are_never_lost(serve: Any) -> None:
    call = Draft("", "tool_calls", (ToolCall("1", "look", '{"x": 1}'),), n_tokens=3)
    served = await serve("ioe", Scripted({"draft": [call], "review": ["I would rather talk."]}))
    assert served.outcome.answers[0].tool_calls == call.tool_calls


async def test_json_of_the_wrong_shape_cannot_win(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted({"draft": ['{"x": 1}'], "review": ['{"x": 2'], "json_object": [[True, False]]})
    assert (await serve("ioe", engine, question, gate="none")).texts == ['{"x": 1}']


async def test_a_raw_prompt_is_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="ioe needs messages"):
        await serve("ioe", Scripted({}), Chat((), prompt="Once upon"))


async def test_the_first_answer_is_served_when_time_is_up(serve: Any) -> None:
    gate = Gated(Scripted({"draft": [FIRST], "review": [SECOND]}), holds=lambda op, span: span.key.endswith("#4"))
    served = await serve("ioe", gate, budget=Budget(seconds=0.05))
    assert served.texts == [FIRST]
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 1)


async def test_the_first_answer_is_served_when_the_budget_is_spent(serve: Any) -> None:
    served = await serve("ioe", Scripted({"draft": [FIRST], "review": [SECOND]}), budget=Budget(calls=2))
    assert (served.texts, served.outcome.stopped) == ([FIRST], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1500


async def measure(serve: Any, engine: Simulated, **knobs: Any) -> tuple[float, float]:
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("ioe", engine, question, seed=i, **knobs)
        right += engine.brain.is_right(question, served.outcome.answers[0].text)
        calls += served.outcome.bill.total.calls
    return right / RUNS, calls / RUNS


def noise(p: float) -> float:
    return 4 * float((p * (1 - p) / RUNS) ** 0.5)


P, KEEPS, FIXES = 0.6, 0.7, 0.5
BROKEN = P * (1 - KEEPS) ** 2
REPAIRED = (1 - P) * FIXES**2
"""Both the review and the decision must go wrong to lose an answer, and both must repair it to mend one."""


async def test_without_a_gate_review_and_decision_must_both_change_the_answer(serve: Any) -> None:
    law = P - BROKEN + REPAIRED
    got, calls = await measure(serve, Simulated(P, confidence=KEEPS, insight=FIXES, length=8), gate="none")
    assert abs(got - law) < noise(law)
    assert abs(calls - (2 + P * (1 - KEEPS) + (1 - P) * FIXES)) < 0.06


async def test_the_gate_lets_through_what_its_taste_prefers(serve: Any) -> None:
    t = 0.8
    law = P - BROKEN * (1 - t) + REPAIRED * t
    got, _ = await measure(serve, Simulated(P, t, confidence=KEEPS, insight=FIXES, length=8))
    assert abs(got - law) < noise(law)
