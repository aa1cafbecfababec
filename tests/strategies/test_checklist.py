"""Checklist: built once, checked per draft, refined on what is missing; fallbacks, budget, laws."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Brain, Gated, Scripted
from strop.strategies.testing.forms import Clerk

BOXES = json.dumps({"questions": ["Is it a poem?", "Does it rhyme?"]})


def check(*met: Any) -> str:
    return json.dumps({"items": [{"reason": f"because {i}", "met": m} for i, m in enumerate(met)]})


async def test_the_draft_that_meets_most_of_the_checklist_is_served(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": ["a\n1", "b\n2", "c\n3"],
            "build": [BOXES],
            "check": [check("no", "yes"), check(True, True), check(0, 0)],
        }
    )
    served = await serve("checklist", engine, n=3)
    assert served.texts == ["b\n2"]
    assert engine.tags == ["draft", "build", "check", "check", "check"]
    assert served.notes["scores"] == [0.5, 1.0, None]


async def test_the_checklist_is_made_from_the_request_alone(serve: Any) -> None:
    engine = Scripted({"draft": ["uno\n", "due\n"], "build": [BOXES], "check": [check("no", "no")] * 2})
    await serve("checklist", engine, n=2, items=5)
    asked = "\n".join(m.content for m in engine.asked[1].chat.messages)
    assert "<question fence>\nWhat is 2 + 2?\n</question fence>" in asked
    assert "at most 5 questions" in asked
    assert "uno" not in asked


async def test_no_more_items_than_asked_for_and_none_twice(serve: Any) -> None:
    boxes = json.dumps({"questions": ["A?", "A?", "", 7, "B?", "C?"]})
    engine = Scripted({"draft": ["a\n", "b\n"], "build": [boxes], "check": [check("yes", "no")] * 2})
    assert (await serve("checklist", engine, n=2, items=2)).notes["checklist"] == ["A?", "B?"]


@pytest.mark.parametrize("reply", ["I would rather not.", "{}", '{"questions": "one"}', '{"questions": []}'])
async def test_without_a_checklist_the_majority_decides(serve: Any, reply: str) -> None:
    engine = Scripted({"draft": ["\\boxed{5}", "\\boxed{4}", "so \\boxed{4}"], "build": [reply]})
    assert (await serve("checklist", engine, n=3)).texts == ["\\boxed{4}"]


@pytest.mark.parametrize(
    "reply", ["Fine.", check("yes"), check("yes", "perhaps"), check("yes", "yes", "yes"), '{"items": 2}']
)
async def test_a_check_that_cannot_be_read_is_no_score(serve: Any, reply: str) -> None:
    engine = Scripted({"draft": ["a\n1", "b\n2"], "build": [BOXES], "check": [reply, check("no", "no")]})
    served = await serve("checklist", engine, n=2)
    assert (served.texts, served.notes["scores"]) == (["b\n2"], [None, 0.0])


async def test_one_draft_alone_is_not_checked(serve: Any) -> None:
    assert (await serve("checklist", Scripted({"draft": ["a"]}), n=1)).texts == ["a"]


async def test_unmet_items_are_mended_and_the_better_version_is_served(serve: Any) -> None:
    engine = Scripted(
        {"draft": ["a\n1"], "build": [BOXES], "check": [check("yes", "no"), check("yes", "yes")], "revise": ["b\n2"]}
    )
    served = await serve("checklist", engine, n=1, rounds=3)
    assert served.texts == ["b\n2"]
    asked = engine.asked[3].chat.messages[-1].content
    assert "<unmet fence>\n- Does it rhyme? because 1\n</unmet fence>" in asked
    assert engine.unused() == {}


@pytest.mark.parametrize("second", [check("no", "yes"), check("no", "no"), "Fine."])
async def test_the_old_answer_stays_unless_strictly_more_items_are_met(serve: Any, second: str) -> None:
    engine = Scripted({"draft": ["a\n1"], "build": [BOXES], "check": [check("yes", "no"), second], "revise": ["b\n2"]})
    assert (await serve("checklist", engine, n=1, rounds=3)).texts == ["a\n1"]
    assert engine.unused() == {}


async def test_rejected_answers_can_be_shown_and_the_temperature_raised(serve: Any, ask: Any) -> None:
    engine = Scripted(
        {"draft": ["a\n1"], "build": [BOXES], "check": [check("yes", "no")] * 3, "revise": ["b\n2", "c\n3"]}
    )
    await serve("checklist", engine, ask(temperature=0.5), n=1, rounds=2, avoid=True, temperature_step=0.2)
    first, second = (op.chat for op in engine.asked if op.tag == "revise")
    assert "<tried" not in first.messages[-1].content
    assert "<tried fence>\nb\n2\n</tried fence>" in second.messages[-1].content
    assert (first.sampling.temperature, second.sampling.temperature) == (0.5, 0.7)


async def test_tool_calls_are_checked_as_text_and_never_lost(serve: Any) -> None:
    call = Draft("", "tool_calls", (ToolCall("1", "look", '{"x": 1}'),), n_tokens=3)
    engine = Scripted({"draft": [call], "build": [BOXES], "check": [check("yes", "no")], "revise": ["Words."]})
    served = await serve("checklist", engine, n=1, rounds=1)
    assert served.outcome.answers[0].tool_calls == call.tool_calls
    assert 'call look({"x": 1})' in engine.asked[2].chat.messages[1].content


async def test_json_of_the_wrong_shape_loses_whatever_the_checklist_says(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    script = {"draft": ["{", "{}"], "build": [BOXES], "check": [check("yes", "yes"), check("no", "no")]}
    engine = Scripted(script | {"json_object": [[False, True]]})
    assert (await serve("checklist", engine, question, n=2)).texts == ["{}"]


async def test_requests_it_cannot_serve_are_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="cannot fill 3 choices"):
        await serve("checklist", Scripted({}), n=2, choices=3)
    with pytest.raises(BadRequest, match="needs messages"):
        await serve("checklist", Scripted({}), Chat((), prompt="Once upon"), rounds=1)


async def test_the_majority_so_far_is_served_when_time_is_up(serve: Any) -> None:
    gate = Gated(
        Scripted({"draft": ["\\boxed{5}", "\\boxed{4}", "so \\boxed{4}"]}), holds=lambda op, _: op.tag == "build"
    )
    served = await serve("checklist", gate, n=3, budget=Budget(seconds=0.05))
    assert served.texts == ["\\boxed{4}"]
    assert (served.outcome.stopped, gate.cancelled) == ("deadline", 1)


async def test_drafts_that_the_budget_leaves_unchecked_lose_to_checked_ones(serve: Any) -> None:
    engine = Scripted({"draft": ["a\n1", "b\n2"], "build": [BOXES], "check": [check("yes", "no")]})
    served = await serve("checklist", engine, n=2, budget=Budget(calls=4))
    assert (served.texts, served.notes["scores"], served.outcome.stopped) == (["a\n1"], [0.5, None], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1000


def _approved(brain: Brain, chat: Chat, key: str) -> str:
    """One item: does the checker think that the candidate is right? Each candidate is an independent draw."""
    form = chat.messages[-1].content
    question, text = (form.partition(f"<{name} fence>\n")[2].partition("\n</")[0] for name in ("question", "candidate"))
    return check("yes" if brain.approves(question, text, key + text) else "no")


def clerk(skill: float, taste: float, **more: Any) -> Clerk:
    boxes = json.dumps({"questions": ["Is it right?"]})
    return Clerk(skill, taste, forms={"build": lambda *_: boxes, "check": _approved}, length=8, **more)


async def accuracy(serve: Any, engine: Clerk, **knobs: Any) -> float:
    right = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("checklist", engine, question, seed=i, **knobs)
        right += engine.brain.is_right(question, served.outcome.answers[0].text)
    return right / RUNS


def noise(p: float) -> float:
    return 4 * float((p * (1 - p) / RUNS) ** 0.5)


async def test_the_first_draft_that_passes_is_right_as_often_as_the_checkers_taste_allows(serve: Any) -> None:
    p, t, n = 0.4, 0.8, 3
    passes = p * t + (1 - p) * (1 - t)
    law = (1 - (1 - passes) ** n) * p * t / passes + (1 - passes) ** (n - 1) * p * (1 - t)
    assert abs(await accuracy(serve, clerk(p, t), n=n) - law) < noise(law)


async def test_with_a_perfect_checker_every_round_repairs_a_share_of_what_is_wrong(serve: Any) -> None:
    p, fixes = 0.4, 0.5
    law = 1 - (1 - p) * (1 - fixes) ** 2
    got = await accuracy(serve, clerk(p, 1.0, insight=fixes), n=1, rounds=2, temperature_step=0.1)
    assert abs(got - law) < noise(law)


async def test_the_cost_is_what_the_docstring_says(serve: Any) -> None:
    served = await serve("checklist", clerk(0.0, 1.0, insight=0.0), n=3, rounds=2, avoid=True, seed=1)
    assert served.outcome.bill.total.calls == 3 + 1 + 3 + 2 * (1 + 1)
