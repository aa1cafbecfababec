"""Verify and revise: evidence from programs, stops, formats, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Verify
from strop.strategies.kit.types import Verdict
from strop.strategies.testing import Gated, Scripted, Simulated

NO, YES, UNKNOWN = [Verdict(False, "line 3 fails")], [True], [None]


async def test_an_answer_that_passes_is_served_at_once(serve: Any) -> None:
    engine = Scripted({"draft": ["5"], "tests": [YES]})
    served = await serve("verify_revise", engine, by="tests")
    assert (served.texts, engine.tags) == (["5"], ["draft", "tests"])


async def test_a_failing_answer_is_revised_with_the_evidence_until_it_passes(serve: Any) -> None:
    engine = Scripted({"draft": ["5"], "tests": [NO, [Verdict(False, "now line 7")], YES], "revise": ["6", "7"]})
    served = await serve("verify_revise", engine, by="tests", rounds=4)
    assert served.texts == ["7"]
    first, second = (op.chat.messages[-1].content for op in engine.asked if op.tag == "revise")
    assert "<candidate fence>\n5\n</candidate fence>\n\n<evidence fence>\nline 3 fails\n</evidence fence>" in first
    assert "<candidate fence>\n6\n</candidate fence>\n\n<evidence fence>\nnow line 7\n</evidence fence>" in second


async def test_the_verifier_gets_its_parameters(serve: Any) -> None:
    engine = Scripted({"draft": ["5"], "tests": [YES]})
    await serve("verify_revise", engine, by="tests", spec={"files": ["a.py"]})
    op = engine.asked[1]
    assert isinstance(op, Verify)
    assert op.spec == {"files": ["a.py"]}


@pytest.mark.parametrize(
    ("verdicts", "why"),
    [
        ([NO, NO, NO], "rounds"),
        ([UNKNOWN], "the verifier could not tell"),
        ([NO, UNKNOWN], "the verifier could not tell"),
    ],
)
async def test_the_first_answer_stays_unless_a_revision_passes(serve: Any, verdicts: list[Any], why: str) -> None:
    engine = Scripted({"draft": ["5"], "tests": verdicts, "revise": ["6", "7"]})
    served = await serve("verify_revise", engine, by="tests")
    assert (served.texts, served.notes["stopped"]) == (["5"], why)


async def test_tool_calls_are_never_lost_even_to_a_revision_that_passes(serve: Any) -> None:
    call = Draft("", "tool_calls", (ToolCall("1", "look", "{}"),), n_tokens=3)
    served = await serve(
        "verify_revise", Scripted({"draft": [call], "tests": [NO, YES], "revise": ["Words."]}), by="tests"
    )
    assert served.outcome.answers[0].tool_calls == call.tool_calls


async def test_an_unfinished_revision_loses_even_if_it_passes(serve: Any) -> None:
    script = {"draft": ["5"], "tests": [NO, YES], "revise": [Draft("6 becau", "length", n_tokens=2)]}
    assert (await serve("verify_revise", Scripted(script), by="tests")).texts == ["5"]


async def test_the_asked_format_is_the_verifier_unless_another_is_named(serve: Any, ask: Any) -> None:
    schema = {"type": "object", "required": ["x"]}
    question = replace(ask(), format=Format("json_schema", "t", schema))
    script = {"draft": ["{}"], "revise": ['{"x": 1}'], "json_schema": [NO, YES, [False, True]]}
    engine = Scripted(script)
    assert (await serve("verify_revise", engine, question)).texts == ['{"x": 1}']
    op = engine.asked[1]
    assert isinstance(op, Verify)
    assert op.spec == {"schema": schema}


async def test_without_a_format_there_is_nothing_to_verify_and_tool_calls_have_none(serve: Any, ask: Any) -> None:
    served = await serve("verify_revise", Scripted({"draft": ["5"]}))
    assert served.notes["stopped"] == "the request has no format to verify"
    call = Draft("", "tool_calls", (ToolCall("1", "look", "{}"),), n_tokens=3)
    question = replace(ask(), format=Format("json_object"))
    assert (await serve("verify_revise", Scripted({"draft": [call]}), question)).outcome.answers[0].tool_calls


async def test_failed_answers_can_be_shown_and_the_temperature_raised(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": ["5"], "tests": [NO] * 3, "revise": ["6", "7"]})
    await serve("verify_revise", engine, ask(temperature=0.2), by="tests", avoid=True, temperature_step=0.15)
    first, second = (op.chat for op in engine.asked if op.tag == "revise")
    assert "<tried" not in first.messages[-1].content
    assert "<tried fence>\n5\n</tried fence>" in second.messages[-1].content
    assert (first.sampling.temperature, second.sampling.temperature) == (0.2, 0.35)


async def test_requests_it_cannot_serve_are_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="needs messages"):
        await serve("verify_revise", Scripted({}), Chat((), prompt="Once upon"))
    with pytest.raises(BadRequest, match="no parameters named"):
        await serve("verify_revise", Scripted({}), by="tests", spec={"by": "judge"})


async def test_the_first_answer_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"draft": ["5"], "tests": [NO]}
    gate = Gated(Scripted(script), holds=lambda op, span: op.tag == "revise")
    served = await serve("verify_revise", gate, by="tests", budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["5"], "deadline", 1)
    served = await serve("verify_revise", Scripted(script), by="tests", budget=Budget(calls=1))
    assert (served.texts, served.outcome.stopped) == (["5"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1000


async def measure(serve: Any, engine: Simulated, rounds: int) -> tuple[float, float]:
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("verify_revise", engine, question, seed=i, by="tests", rounds=rounds)
        right += engine.brain.is_right(question, served.outcome.answers[0].text)
        calls += served.outcome.bill.total.calls
    return right / RUNS, calls / RUNS


@pytest.mark.parametrize("rounds", [1, 3])
async def test_with_tests_that_know_every_round_repairs_its_share_and_breaks_nothing(serve: Any, rounds: int) -> None:
    p, fixes = 0.4, 0.3
    got, calls = await measure(serve, Simulated(p, confidence=0.0, insight=fixes, length=8), rounds)
    law = 1 - (1 - p) * (1 - fixes) ** rounds
    cost = 1 + (1 - p) * sum((1 - fixes) ** k for k in range(rounds))
    assert abs(got - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
    assert abs(calls - cost) < 0.15


async def test_json_comes_out_valid_as_often_as_one_of_the_attempts_is(serve: Any, ask: Any) -> None:
    fluency, valid = 0.5, 0
    for i in range(300):
        question = replace(ask(f"What is {i} + 1?"), format=Format("json_object"))
        served = await serve("verify_revise", Simulated(fluency=fluency, length=8), question, seed=i, rounds=2)
        valid += served.texts[0].endswith("}")
    assert abs(valid / 300 - 0.875) < 4 * (0.875 * 0.125 / 300) ** 0.5
