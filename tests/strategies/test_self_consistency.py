"""Self-consistency: votes, early stop, budget, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Format, Tokens, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted, Simulated


def boxed(*answers: object) -> list[str]:
    return [f"draft {place}: \\boxed{{{answer}}}" if answer else "no\nidea" for place, answer in enumerate(answers)]


async def test_the_answer_that_most_drafts_give_is_served(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 3, 4)})
    served = await serve("self_consistency", engine, n=4, adaptive=False)
    assert served.texts == ["draft 1: \\boxed{4}"]
    assert len(engine.asked) == 1


async def test_a_tie_goes_to_the_answer_seen_first(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4, 5)})
    assert (await serve("self_consistency", engine, n=4, adaptive=False)).texts == ["draft 0: \\boxed{5}"]


async def test_the_likeliest_draft_of_the_winning_answer_is_served_where_logprobs_are_known(serve: Any) -> None:
    def sure(text: str, logprob: float) -> Draft:
        return Draft(text, tokens=Tokens((1,), (text,), (logprob,)), n_tokens=1)

    drafts = [sure("\\boxed{4} hm", -2.0), sure("\\boxed{4} yes", -0.1), sure("\\boxed{5}", -0.01)]
    served = await serve("self_consistency", Scripted({"draft": drafts}), n=3, adaptive=False)
    assert served.texts == ["\\boxed{4} yes"]


async def test_unreadable_answers_do_not_vote(serve: Any) -> None:
    engine = Scripted({"draft": boxed(None, None, None, 4)})
    assert (await serve("self_consistency", engine, n=4, adaptive=False)).texts == ["draft 3: \\boxed{4}"]


async def test_without_any_readable_answer_the_first_draft_is_served(serve: Any) -> None:
    engine = Scripted({"draft": ["a\npoem", "an\node"]})
    assert (await serve("self_consistency", engine, n=2)).texts == ["a\npoem"]


async def test_further_choices_are_other_answers_by_votes(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 3, 4, 3, 4)})
    served = await serve("self_consistency", engine, n=6, adaptive=False, choices=4)
    assert served.texts == [f"draft {i}: \\boxed{{{a}}}" for i, a in [(1, 4), (2, 3), (0, 5), (3, 4)]]


async def test_more_choices_than_drafts_is_a_bad_request(serve: Any) -> None:
    with pytest.raises(BadRequest, match="cannot fill 3 choices"):
        await serve("self_consistency", Scripted({}), n=2, choices=3)


async def test_tool_calls_are_voted_on(serve: Any) -> None:
    def call(argument: int) -> Draft:
        return Draft("", "tool_calls", (ToolCall("id", "look", f'{{"x": {argument}}}'),), n_tokens=1)

    engine = Scripted({"draft": [call(1), call(2), call(2)]})
    served = await serve("self_consistency", engine, n=3, adaptive=False)
    assert served.outcome.answers[0].tool_calls[0].arguments == '{"x": 2}'


async def test_json_of_the_wrong_shape_does_not_vote(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted({"draft": ["[1]", "[1]", '{"x": 1}'], "json_object": [[False, False, True]]})
    assert (await serve("self_consistency", engine, question, n=3, adaptive=False)).texts == ['{"x": 1}']


# ---- adaptive ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "sampled"),
    [
        ([4, 4, 4, 4], 4),
        ([4, 4, 4, 5, 4, 4, 4], 7),
        ([4, 4, 5, 5, 4, 4, 4, 4, 4, 4], 10),
        ([4, None, 4, None, 4, 4], 6),
    ],
)
async def test_sampling_stops_as_soon_as_the_leader_is_safe(serve: Any, answers: list[Any], sampled: int) -> None:
    served = await serve("self_consistency", Scripted({"draft": boxed(*answers, *[4] * 8)}), n=32)
    assert served.texts == ["draft 0: \\boxed{4}"]
    assert served.notes["sampled"] == sampled


async def test_the_leader_needs_at_least_four_votes(serve: Any) -> None:
    served = await serve("self_consistency", Simulated(skill=1.0), n=32)
    assert served.notes["sampled"] == 4


async def test_sampling_stops_when_the_rest_could_not_change_the_winner(serve: Any) -> None:
    served = await serve("self_consistency", Scripted({"draft": boxed(4, 4, 4, 4, 4)}), n=5)
    assert served.notes["sampled"] == 3


async def test_never_more_than_n_drafts(serve: Any) -> None:
    engine = Scripted({"draft": boxed(*range(1, 11))})
    assert (await serve("self_consistency", engine, n=10)).notes["sampled"] == 10
    assert len(engine.asked) == 10


async def test_drafts_that_are_no_longer_needed_are_cancelled(serve: Any) -> None:
    gate = Gated(
        Scripted({"draft": boxed(4, 4, 4, 5, 4, 4, 4, 4)}), holds=lambda op, span: span.key.endswith("3.window[3]#1")
    )
    served = await serve("self_consistency", gate, n=32)
    assert served.texts == ["draft 0: \\boxed{4}"]
    assert (gate.started, gate.finished, gate.cancelled) == (8, 7, 1)


async def test_the_result_does_not_depend_on_timing(serve: Any, jittered: Any) -> None:
    engine = Simulated(skill=0.5, seed=2)
    runs = [await serve("self_consistency", jittered(engine, i), n=16, seed=3) for i in range(8)]
    assert len({(run.outcome.answers, run.notes["sampled"]) for run in runs}) == 1


async def test_the_leader_so_far_is_served_when_time_is_up(serve: Any) -> None:
    gate = Gated(Scripted({"draft": boxed(5, 4, 4, 3) * 2}), holds=lambda op, span: "/1.window" not in span.key)
    served = await serve("self_consistency", gate, n=8, budget=Budget(seconds=0.05))
    assert served.texts == ["draft 1: \\boxed{4}"]
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 4)


async def test_the_leader_so_far_is_served_when_the_budget_is_spent(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4, 3)})
    served = await serve("self_consistency", engine, n=8, budget=Budget(calls=4))
    assert served.texts == ["draft 1: \\boxed{4}"]
    assert (served.outcome.stopped, served.outcome.degraded) == ("budget", "kept")


async def test_the_first_window_gets_equal_shares_of_the_budget(serve: Any) -> None:
    served = await serve("self_consistency", Simulated(length=500), n=8, budget=Budget(tokens=80))
    assert [op.op.chat.sampling.max_tokens for op in served.ops] == [20] * 4
    assert served.outcome.bill.total.completion == 80


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 600


async def measure(serve: Any, engine: Simulated, **knobs: Any) -> tuple[float, float]:
    """Accuracy and generated tokens per question."""
    right = tokens = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("self_consistency", engine, question, seed=i, **knobs)
        right += engine.brain.is_right(question, served.outcome.answers[0].text)
        tokens += served.outcome.bill.total.completion
    return right / RUNS, tokens / RUNS


async def test_a_vote_of_five_follows_the_binomial_tail(serve: Any) -> None:
    got, _ = await measure(serve, Simulated(0.6, rivals=1, length=8), n=5, adaptive=False)
    assert abs(got - 0.68256) < 4 * (0.68256 * 0.31744 / RUNS) ** 0.5


async def test_stopping_early_costs_fewer_tokens_and_no_accuracy(serve: Any) -> None:
    engine = Simulated(0.7, spread=0.4, length=8)
    fixed, all_tokens = await measure(serve, engine, n=16, adaptive=False)
    adaptive, tokens = await measure(serve, engine, n=16)
    assert tokens < 0.7 * all_tokens
    assert abs(adaptive - fixed) < 4 * (2 * fixed * (1 - fixed) / RUNS) ** 0.5


async def test_voting_cannot_help_when_drafts_of_a_question_stand_and_fall_together(serve: Any) -> None:
    got, _ = await measure(serve, Simulated(0.6, spread=1.0, length=8), n=5)
    assert abs(got - 0.6) < 4 * (0.24 / RUNS) ** 0.5
