"""Adaptive: agreement, more votes, repair, open-ended questions, budget, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate
from strop.strategies.testing import Gated, Scripted, Simulated

WRONG = "The sum is off.\n\nVERDICT: wrong"


def boxed(*answers: object) -> list[str]:
    return [f"draft {place}: \\boxed{{{answer}}}" if answer else "no\nidea" for place, answer in enumerate(answers)]


async def test_four_drafts_that_agree_are_all_it_takes(serve: Any) -> None:
    engine = Scripted({"draft": boxed(4, 4, 4, 4)})
    served = await serve("adaptive", engine)
    assert served.texts == ["draft 0: \\boxed{4}"]
    assert (engine.tags, engine.asked[0].n) == (["draft"], 4)


async def test_windows_of_four_follow_until_the_leader_is_safe(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4, 4, 4, 4, 4, 4)})
    served = await serve("adaptive", engine)
    assert served.texts == ["draft 1: \\boxed{4}"]
    assert (engine.tags, served.notes["sampled"]) == (["draft", "draft"], 8)


async def test_every_window_asks_the_same_prompt_so_that_its_prefix_is_cached(serve: Any) -> None:
    engine = Scripted({"draft": boxed(*range(1, 9))})
    await serve("adaptive", engine, n=8, repair_below=0.0)
    first, second = engine.asked
    assert isinstance(first, Generate)
    assert isinstance(second, Generate)
    assert first.chat == second.chat
    assert first.chat.sampling.temperature == 0.8


async def test_a_dispute_that_stays_is_settled_by_a_review_of_the_leader(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": boxed(1, 2, 3, 3, 4, 5, 6, 7),
            "critique": [WRONG],
            "revise": ["\\boxed{8}"],
            "pairwise": [[0.2, 0.8]],
        }
    )
    served = await serve("adaptive", engine, n=8)
    assert served.texts == ["\\boxed{8}"]
    assert engine.tags == ["draft", "draft", "critique", "revise", "pairwise"]
    assert "draft 2: \\boxed{3}" in engine.asked[2].chat.messages[1].content


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.9, 0.1], [None, 0.9], [0.1, None]])
async def test_the_leader_stays_unless_the_gate_strictly_prefers_the_revision(serve: Any, values: list[Any]) -> None:
    script = {"draft": boxed(1, 2, 3, 3, 4, 5), "critique": [WRONG], "revise": ["\\boxed{8}"], "pairwise": [values]}
    assert (await serve("adaptive", Scripted(script), n=6)).texts == ["draft 2: \\boxed{3}"]


async def test_a_leader_with_enough_votes_is_not_reviewed(serve: Any) -> None:
    engine = Scripted({"draft": boxed(4, 4, 5, 5, 4, 6, 4, 7)})
    assert (await serve("adaptive", engine, n=8)).texts == ["draft 0: \\boxed{4}"]
    assert engine.tags == ["draft", "draft"]


async def test_the_last_window_is_cut_to_n(serve: Any) -> None:
    engine = Scripted({"draft": boxed(*range(1, 7))})
    await serve("adaptive", engine, n=6, repair_below=0.0)
    assert [op.n for op in engine.asked] == [4, 2]


# ---- answers that cannot be compared -------------------------------------------------------------------------------

POEMS = ["a\nrose", "is\na", "rose\nis", "a\npoem"]


async def test_prose_is_chosen_by_a_judge_after_one_window(serve: Any) -> None:
    engine = Scripted({"draft": POEMS, "judge": [[0.1, 0.4, 0.9, 0.2]]})
    served = await serve("adaptive", engine)
    assert served.texts == ["rose\nis"]
    assert engine.tags == ["draft", "judge"]


@pytest.mark.parametrize("scores", [[None, None, None, None], [None, 0.1, None, None]])
async def test_a_missing_score_is_no_evidence(serve: Any, scores: list[Any]) -> None:
    served = await serve("adaptive", Scripted({"draft": POEMS, "judge": [scores]}))
    assert served.texts == [POEMS[1] if any(scores) else POEMS[0]]


async def test_without_a_judge_the_first_finished_draft_is_served(serve: Any) -> None:
    drafts = [Draft("a\nrose is", "length", n_tokens=3), *POEMS[1:]]
    assert (await serve("adaptive", Scripted({"draft": drafts}), by="none")).texts == [POEMS[1]]


async def test_four_different_greetings_are_not_put_to_the_vote(serve: Any) -> None:
    engine = Scripted({"draft": ["Hi!", "Hello!", "Hey there.", "Welcome."], "judge": [[0.1, 0.8, 0.2, 0.3]]})
    assert (await serve("adaptive", engine, "hi")).texts == ["Hello!"]
    assert engine.tags == ["draft", "judge"]


async def test_one_stray_answer_among_prose_does_not_win_by_one_vote(serve: Any) -> None:
    engine = Scripted({"draft": [*POEMS[:3], "\\boxed{4}"], "judge": [[0.1, 0.8, 0.2, 0.3]]})
    assert (await serve("adaptive", engine)).texts == [POEMS[1]]


# ---- other shapes --------------------------------------------------------------------------------------------------


async def test_tool_calls_are_voted_on_and_survive_a_review(serve: Any) -> None:
    def call(x: int) -> Draft:
        return Draft("", "tool_calls", (ToolCall("id", "look", f'{{"x": {x}}}'),), n_tokens=1)

    script = {"draft": [call(i) for i in (1, 2, 3, 2, 4)], "critique": [WRONG], "revise": ["I would rather talk."]}
    served = await serve("adaptive", Scripted(script), n=5)
    assert served.outcome.answers[0].tool_calls[0].arguments == '{"x": 2}'
    assert served.notes["stays"] == "the revision dropped the tool calls"


async def test_json_of_the_wrong_shape_does_not_vote(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted(
        {"draft": ["[1]", "[1]", '{"x": 1}', '{"x": 1}'], "json_object": [[False, False, True, True]] * 2}
    )
    assert (await serve("adaptive", engine, question, n=4)).texts == ['{"x": 1}']


async def test_further_choices_are_other_answers_by_votes(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4, 4, 4)})
    served = await serve("adaptive", engine, n=5, choices=5)
    assert served.texts[:2] == ["draft 1: \\boxed{4}", "draft 0: \\boxed{5}"]
    assert engine.asked[0].n == 5


async def test_more_choices_than_drafts_is_a_bad_request(serve: Any) -> None:
    with pytest.raises(BadRequest, match="cannot fill 5 choices"):
        await serve("adaptive", Scripted({}), n=4, choices=5)


async def test_a_raw_prompt_is_voted_on_but_not_reviewed(serve: Any) -> None:
    engine = Scripted({"draft": boxed(1, 2, 3, 4)})
    assert (await serve("adaptive", engine, Chat((), prompt="2 + 2 ="), n=4)).texts == ["draft 0: \\boxed{1}"]


# ---- budget and deadline -------------------------------------------------------------------------------------------


async def test_the_leader_so_far_is_served_when_time_is_up(serve: Any) -> None:
    gate = Gated(Scripted({"draft": boxed(5, 4, 4, 3)}), holds=lambda op, span: span.key.endswith("#3"))
    served = await serve("adaptive", gate, budget=Budget(seconds=0.05))
    assert served.texts == ["draft 1: \\boxed{4}"]
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 1)


async def test_the_leader_so_far_is_served_when_the_budget_is_spent(serve: Any) -> None:
    served = await serve("adaptive", Scripted({"draft": boxed(5, 4, 4, 3)}), budget=Budget(calls=4))
    assert served.texts == ["draft 1: \\boxed{4}"]
    assert (served.outcome.stopped, served.outcome.degraded) == ("budget", "kept")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 800


async def measure(serve: Any, engine: Simulated, name: str = "adaptive", **knobs: Any) -> tuple[float, float]:
    """Accuracy and generated drafts, critiques and judgements per question."""
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve(name, engine, question, seed=i, **knobs)
        right += engine.brain.is_right(question, served.outcome.answers[0].text)
        calls += served.outcome.bill.total.calls
    return right / RUNS, calls / RUNS


def noise(p: float) -> float:
    return 4 * float((p * (1 - p) / RUNS) ** 0.5)


P = 0.6
CLEAR, TIED = P**4 + 4 * P**3 * (1 - P), 6 * P**2 * (1 - P) ** 2
"""The chance that three or four of four drafts are right, and that two are."""


async def test_one_window_follows_the_binomial_tail(serve: Any) -> None:
    law = CLEAR + TIED / 2
    got, calls = await measure(serve, Simulated(P, rivals=1, length=8), n=4, repair_below=0.0)
    assert abs(got - law) < noise(law)
    assert calls == 4


async def test_a_repair_turns_ties_into_what_the_gate_lets_through(serve: Any) -> None:
    t, keeps, fixes = 0.9, 0.5, 0.8
    repaired = 0.5 * (1 - (1 - t) * (1 - keeps) * (1 - t)) + 0.5 * t * fixes * t
    law = CLEAR + TIED * repaired
    engine = Simulated(P, t, rivals=1, confidence=keeps, insight=fixes, length=8)
    got, _ = await measure(serve, engine, n=4, repair_below=0.51)
    assert abs(got - law) < noise(law)
    assert law > CLEAR + TIED / 2 + noise(law)


async def test_it_is_as_good_as_a_full_vote_for_much_less_where_drafts_agree(serve: Any) -> None:
    engine = Simulated(0.75, spread=0.4, length=8)
    full, all_calls = await measure(serve, engine, "self_consistency", n=16, adaptive=False)
    got, calls = await measure(serve, engine, n=16, repair_below=0.0)
    assert abs(got - full) < noise(full)
    assert calls < 0.6 * all_calls


async def test_a_useless_critic_and_gate_cannot_do_more_harm_than_the_disputed_questions(serve: Any) -> None:
    """Every revision of a right answer is wrong and none repairs; both judges toss coins."""
    engine = Simulated(0.8, 0.5, spread=0.2, confidence=0.0, insight=0.0, length=8)
    without, _ = await measure(serve, engine, repair_below=0.0)
    got, _ = await measure(serve, engine)
    assert without - got < 0.02


async def test_the_cost_is_at_most_n_drafts_a_critique_a_revision_and_a_scoring(serve: Any) -> None:
    engine = Simulated(0.1, 1.0, rivals=12, focus=0.0, insight=1.0, length=8)
    served = await serve("adaptive", engine, n=16, seed=1)
    assert served.outcome.bill.total.calls == 16 + 1 + 1 + 1
