"""Self-check: reviews, the vote of those that pass, fallbacks, laws."""

from __future__ import annotations

from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted, Simulated

WRONG, RIGHT = "Off.\n\nVERDICT: wrong", "Good.\n\nVERDICT: correct"


def boxed(*answers: object) -> list[str]:
    return [f"draft {place}: \\boxed{{{answer}}}" if answer else "no\nidea" for place, answer in enumerate(answers)]


async def test_rejected_answers_do_not_vote(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 5, 5, 4, 4), "critique": [WRONG, WRONG, RIGHT, RIGHT, RIGHT]})
    served = await serve("self_check", engine, n=5)
    assert served.texts == ["draft 3: \\boxed{4}"]
    assert engine.tags == ["draft", *["critique"] * 5]


async def test_each_review_sees_one_answer_in_a_fresh_context(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4), "critique": [RIGHT, RIGHT]})
    await serve("self_check", engine, n=2)
    for place, op in enumerate(engine.asked[1:]):
        asked = op.chat.messages[-1].content
        assert f"draft {place}" in asked
        assert f"draft {1 - place}" not in asked
        assert op.chat.answers is False


async def test_if_all_are_rejected_the_plain_majority_decides(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4), "critique": [WRONG] * 3})
    served = await serve("self_check", engine, n=3)
    assert (served.texts, served.notes["fallback"]) == (["draft 1: \\boxed{4}"], True)


async def test_if_what_passed_cannot_be_compared_the_plain_majority_decides(serve: Any) -> None:
    engine = Scripted({"draft": boxed(None, 4, 4), "critique": [RIGHT, WRONG, WRONG]})
    assert (await serve("self_check", engine, n=3)).texts == ["draft 1: \\boxed{4}"]


@pytest.mark.parametrize("reply", ["Hard to say.", Draft("VERDICT: wrong", "length", n_tokens=3)])
async def test_a_review_that_cannot_be_read_is_no_evidence(serve: Any, reply: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4), "critique": [RIGHT, reply, reply]})
    assert (await serve("self_check", engine, n=3)).texts == ["draft 1: \\boxed{4}"]


async def test_unanimous_drafts_are_not_reviewed(serve: Any) -> None:
    engine = Scripted({"draft": boxed(4, 4, 4)})
    assert (await serve("self_check", engine, n=3)).texts == ["draft 0: \\boxed{4}"]


async def test_an_unfinished_draft_loses_even_if_it_passes(serve: Any) -> None:
    drafts = [Draft("\\boxed{5} becau", "length", n_tokens=3), "\\boxed{4}"]
    engine = Scripted({"draft": drafts, "critique": [RIGHT, WRONG]})
    assert (await serve("self_check", engine, n=2)).texts == ["\\boxed{4}"]


async def test_tool_calls_are_reviewed_and_voted_on(serve: Any) -> None:
    calls = [Draft("", "tool_calls", (ToolCall("id", "look", f'{{"x": {x}}}'),), n_tokens=1) for x in (1, 1, 2)]
    engine = Scripted({"draft": calls, "critique": [WRONG, WRONG, RIGHT]})
    served = await serve("self_check", engine, n=3)
    assert served.outcome.answers[0].tool_calls[0].arguments == '{"x": 2}'
    assert 'call look({"x": 1})' in engine.asked[1].chat.messages[1].content


async def test_further_choices_are_other_answers(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4), "critique": [RIGHT] * 3})
    served = await serve("self_check", engine, n=3, choices=2)
    assert served.texts == ["draft 1: \\boxed{4}", "draft 0: \\boxed{5}"]
    with pytest.raises(BadRequest, match="cannot fill 3 choices"):
        await serve("self_check", Scripted({}), n=2, choices=3)


async def test_the_majority_is_served_when_time_is_up(serve: Any) -> None:
    script = {"draft": boxed(5, 4, 4), "critique": [RIGHT] * 3}
    gate = Gated(Scripted(script), holds=lambda op, span: "critique[1]" in span.key)
    served = await serve("self_check", gate, n=3, budget=Budget(seconds=0.05))
    assert served.texts == ["draft 1: \\boxed{4}"]
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 1)


async def test_answers_that_the_budget_leaves_unreviewed_stay_in_the_vote(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4), "critique": [RIGHT]})
    served = await serve("self_check", engine, n=3, budget=Budget(calls=4))
    assert (served.texts, served.notes["verdicts"]) == (["draft 1: \\boxed{4}"], [True, None, None])


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1000


@pytest.mark.parametrize("taste", [1.0, 0.8])
async def test_a_critic_that_is_right_t_of_the_time_finds_a_right_answer_or_hides_it(serve: Any, taste: float) -> None:
    """The simulated critic decides greedily, so it is right, or wrong, about all drafts of a question at once."""
    p, n = 0.5, 3
    engine = Simulated(p, taste, length=8)
    right = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("self_check", engine, question, seed=i, n=n)
        right += engine.brain.is_right(question, served.outcome.answers[0].text)
    law = taste * (1 - (1 - p) ** n) + (1 - taste) * p**n
    assert abs(right / RUNS - law) < 4 * (law * (1 - law) / RUNS) ** 0.5


async def test_the_cost_is_n_drafts_and_n_reviews(serve: Any) -> None:
    served = await serve("self_check", Simulated(0.5, length=8), n=6, seed=2)
    assert served.outcome.bill.total.calls == 12
