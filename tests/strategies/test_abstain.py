"""Abstaining: confidence, the fixed refusal, what is never refused, laws."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist
from typing import Any

import pytest

from strop.strategies.kit import Budget, Context, Draft, Format, ToolCall, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted, Simulated

REFUSAL = prompt(Context(Scripted({})), "abstain/refusal").question


def boxed(*answers: object) -> list[str]:
    return [f"draft {place}: \\boxed{{{answer}}}" if answer else "no\nidea" for place, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("answers", "served_text"),
    [
        ((4, 4, 4, 5, 6), "draft 0: \\boxed{4}"),
        ((4, 4, 5, 5, 6), REFUSAL),
        ((4, 4, None, None, None), REFUSAL),
        ((None, None, None, None, None), REFUSAL),
    ],
)
async def test_the_leader_is_served_from_the_threshold_on(serve: Any, answers: Any, served_text: str) -> None:
    served = await serve("abstain", Scripted({"draft": boxed(*answers)}))
    assert served.texts == [served_text]
    assert served.notes["abstained"] is (served_text == REFUSAL)


@pytest.mark.parametrize(("score", "answered"), [(0.6, True), (0.9, True), (0.59, False), (None, False)])
async def test_a_scorer_can_be_the_confidence_and_a_missing_score_is_none(
    serve: Any, score: Any, answered: bool
) -> None:
    engine = Scripted({"draft": ["a\npoem"], "judge": [[score]]})
    assert (await serve("abstain", engine, n=1, by="judge")).texts == ["a\npoem" if answered else REFUSAL]


async def test_the_refusal_costs_nothing_and_everything_sampled_is_billed_as_discarded(serve: Any) -> None:
    served = await serve("abstain", Simulated(0.0, rivals=50, focus=0.0), threshold=1.0, seed=1)
    assert served.texts == [REFUSAL]
    assert served.outcome.bill.discarded == served.outcome.bill.total.completion


async def test_tool_calls_and_structured_output_are_never_replaced_by_a_sentence(serve: Any, ask: Any) -> None:
    calls = [Draft("", "tool_calls", (ToolCall("1", "look", f'{{"x": {x}}}'),), n_tokens=3) for x in (1, 2)]
    served = await serve("abstain", Scripted({"draft": calls}), n=2)
    assert served.outcome.answers[0].tool_calls == calls[0].tool_calls
    assert (served.notes["confidence"], served.notes["abstained"]) == (0.5, False)
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted({"draft": ['{"x": 1}', '{"x": 2}'], "json_object": [[True, True]]})
    assert (await serve("abstain", engine, question, n=2)).texts == ['{"x": 1}']


async def test_agreement_of_one_draft_means_nothing(serve: Any) -> None:
    with pytest.raises(BadRequest, match="at least two drafts"):
        await serve("abstain", Scripted({}), n=1)


async def test_an_answer_whose_confidence_is_not_known_yet_is_not_served_when_time_is_up(serve: Any) -> None:
    gate = Gated(Scripted({"draft": ["5"], "judge": [[0.9]]}), holds=lambda op, span: op.tag == "judge")
    served = await serve("abstain", gate, n=1, by="judge", budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == ([REFUSAL], "deadline", 1)
    served = await serve("abstain", Scripted({"draft": ["5"]}), n=1, by="judge", budget=Budget(calls=1))
    assert (served.texts, served.outcome.stopped) == ([REFUSAL], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1500


async def measure(serve: Any, engine: Simulated, **knobs: Any) -> tuple[float, float]:
    """Coverage, and accuracy on what was answered."""
    answered = right = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("abstain", engine, question, seed=i, **knobs)
        answered += served.texts[0] != REFUSAL
        right += engine.brain.is_right(question, served.texts[0])
    return answered / RUNS, right / answered


async def test_coverage_and_accuracy_follow_the_scorers_two_normal_distributions(serve: Any) -> None:
    p, t = 0.5, 0.85
    good = NormalDist().cdf(NormalDist().inv_cdf(t) / 2**0.5)
    coverage = p * good + (1 - p) * (1 - good)
    got, accuracy = await measure(serve, Simulated(p, t, length=8), n=1, by="judge", threshold=0.5)
    law = p * good / coverage
    assert abs(got - coverage) < 4 * 0.5 / RUNS**0.5
    assert abs(accuracy - law) < 4 * (law * (1 - law) / (RUNS * coverage)) ** 0.5


async def test_unanimity_of_three_answers_less_and_errs_less(serve: Any) -> None:
    p = 0.7
    got, accuracy = await measure(serve, Simulated(p, rivals=1, length=8), n=3, threshold=1.0)
    coverage, law = p**3 + (1 - p) ** 3, p**3 / (p**3 + (1 - p) ** 3)
    assert abs(got - coverage) < 4 * 0.5 / RUNS**0.5
    assert abs(accuracy - law) < 4 * (law * (1 - law) / (RUNS * coverage)) ** 0.5


async def test_the_cost_is_n_drafts_and_one_judgement(serve: Any) -> None:
    served = await serve("abstain", Simulated(0.5, length=8), n=3, by="judge", seed=2)
    assert served.outcome.bill.total.calls == 4
