"""MAgICoRe: easy and hard questions, the pool, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted, Simulated


def boxed(*answers: int) -> list[str]:
    return [f"draft {place}: \\boxed{{{answer}}}" for place, answer in enumerate(answers)]


EASY = [
    ((4, 4, 4, 5), (0.1, 0.1, 0.1, 0.1)),
    ((4, 3, 2, 5), (0.9, 0.1, 0.1, 0.1)),
    ((4, 4, 3, 5), (0.6, 0.6, 0.3, 0.3)),
]


@pytest.mark.parametrize(("answers", "scores"), EASY)
async def test_agreement_or_a_good_leader_makes_a_question_easy(serve: Any, answers: Any, scores: Any) -> None:
    engine = Scripted({"draft": boxed(*answers), "judge": [scores]})
    served = await serve("magicore", engine, n=4, unsure=0.6)
    assert served.texts == ["draft 0: \\boxed{4}"]
    assert engine.tags == ["draft", "judge"]


async def test_on_a_hard_question_every_draft_is_reviewed_and_revised_and_the_best_of_all_vote(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": boxed(1, 2, 3),
            "judge": [[0.3, 0.2, 0.1], [0.1, 0.9, 0.8]],
            "review": ["a", "b", "c"],
            "refine": ["\\boxed{1}", "\\boxed{9}", "so \\boxed{9}"],
        }
    )
    served = await serve("magicore", engine, n=3)
    assert served.texts == ["\\boxed{9}"]
    assert engine.tags[:2] == ["draft", "judge"]
    assert sorted(engine.tags[2:]) == ["judge", *["refine"] * 3, *["review"] * 3]
    assert served.notes["scores"] == [0.3, 0.9, 0.8]


async def test_an_old_draft_that_scores_better_stays(serve: Any) -> None:
    engine = Scripted(
        {"draft": boxed(1, 2), "judge": [[0.3, 0.2], [0.1, 0.1]], "review": ["a", "b"], "refine": boxed(8, 9)}
    )
    assert (await serve("magicore", engine, n=2)).texts == ["draft 0: \\boxed{1}"]


async def test_the_reviewer_sees_the_scores_of_the_steps(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": ["one\n\nso \\boxed{1}", "uno\n\nso \\boxed{2}"],
            "judge": [[0.3, 0.2], [0.1, 0.1]],
            "prm": [[0.9, 0.12], [0.5]],
            "review": ["a", "b"],
            "refine": boxed(8, 9),
        }
    )
    await serve("magicore", engine, n=2, steps="prm")
    seen = [op.chat.messages[-1].content for op in engine.asked if op.tag == "review"]
    assert "one (Score: 9/10)\n\nso \\boxed{1} (Score: 1/10)" in seen[0]
    assert "uno\n\nso \\boxed{2}" in seen[1]


async def test_without_scores_the_majority_decides_and_nothing_is_revised(serve: Any) -> None:
    engine = Scripted({"draft": boxed(1, 2, 2), "judge": [[None] * 3]})
    assert (await serve("magicore", engine, n=3)).texts == ["draft 1: \\boxed{2}"]


async def test_iterations_go_on_while_the_question_is_hard(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": boxed(1, 2),
            "judge": [[0.2, 0.2], [0.3, 0.3], [0.9, 0.3]],
            "review": ["a"] * 4,
            "refine": boxed(3, 4, 5, 6),
        }
    )
    assert (await serve("magicore", engine, n=2, iterations=3)).texts == ["draft 2: \\boxed{5}"]
    assert engine.unused() == {}


async def test_tool_calls_and_the_asked_shape_are_never_lost(serve: Any, ask: Any) -> None:
    calls = [Draft("", "tool_calls", (ToolCall("1", "look", f'{{"x": {x}}}'),), n_tokens=3) for x in (1, 2)]
    script = {"draft": calls, "judge": [[0.2, 0.1]], "review": ["a", "b"], "refine": ["Words.", "Words."]}
    served = await serve("magicore", Scripted(script), n=2)
    assert served.outcome.answers[0].tool_calls == calls[0].tool_calls
    question = replace(ask(), format=Format("json_object"))
    script = {"draft": ['{"x": 1}', '{"x": 2}'], "judge": [[0.2, 0.1]], "review": ["a", "b"], "refine": ["{", "{"]}
    shape = {"json_object": lambda op: [d.text.endswith("}") for d in op.drafts]}
    assert (await serve("magicore", Scripted(script | shape), question, n=2)).texts == ['{"x": 1}']


async def test_requests_it_cannot_serve_are_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="cannot fill 3 choices"):
        await serve("magicore", Scripted({}), n=2, choices=3)
    with pytest.raises(BadRequest, match="needs messages"):
        await serve("magicore", Scripted({}), Chat((), prompt="Once upon"))


async def test_the_leader_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"draft": boxed(1, 2), "judge": [[0.1, 0.2]], "review": ["a", "b"]}
    gate = Gated(Scripted(script), holds=lambda op, span: op.tag == "refine")
    served = await serve("magicore", gate, n=2, budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["draft 1: \\boxed{2}"], "deadline", 2)
    served = await serve("magicore", Scripted(script), n=2, budget=Budget(calls=2))
    assert (served.texts, served.outcome.stopped) == (["draft 0: \\boxed{1}"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 800


async def test_with_a_perfect_scorer_only_questions_without_a_right_draft_are_revised(serve: Any) -> None:
    p, fixes, n = 0.4, 0.5, 2
    engine = Simulated(p, 1.0, confidence=0.0, insight=fixes, length=8)
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("magicore", engine, question, seed=i, n=n, unsure=0.0)
        right += engine.brain.is_right(question, served.texts[0])
        calls += served.outcome.bill.total.calls
    law = 1 - ((1 - p) * (1 - fixes)) ** n
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
    assert abs(calls / RUNS - (2 * n + (1 - p) ** n * 3 * n)) < 0.5
