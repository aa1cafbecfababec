"""Best-of-N: selection, fallbacks, budget, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Format, Tokens, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate
from strop.strategies.testing import Gated, Scripted, Simulated


def boxed(*answers: object) -> list[str]:
    return [f"draft {place}: \\boxed{{{answer}}}" for place, answer in enumerate(answers)]


def measured(text: str, logprob: float = 0.0, certainty: float = 0.0) -> Draft:
    return Draft(text, tokens=Tokens((1,), (text,), (logprob,), (), (certainty,)), n_tokens=1)


async def test_the_scores_of_equal_answers_add_up_and_the_best_of_the_winners_is_served(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4), "judge": [[0.9, 0.5, 0.6]]})
    served = await serve("best_of_n", engine, n=3)
    assert served.texts == ["draft 2: \\boxed{4}"]
    assert engine.tags == ["draft", "judge"]


async def test_unweighted_the_best_score_wins(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4), "judge": [[0.9, 0.5, 0.6]]})
    assert (await serve("best_of_n", engine, n=3, weighted=False)).texts == ["draft 0: \\boxed{5}"]


async def test_without_readable_answers_the_best_score_wins(serve: Any) -> None:
    engine = Scripted({"draft": ["a\npoem", "an\node", "a\npoem"], "judge": [[0.5, 0.9, 0.5]]})
    assert (await serve("best_of_n", engine, n=3)).texts == ["an\node"]


async def test_answers_that_mean_the_same_agree(serve: Any) -> None:
    engine = Scripted({"draft": boxed(3, r"\frac{1}{2}", "0.5"), "judge": [[0.9, 0.5, 0.6]]})
    assert (await serve("best_of_n", engine, n=3)).texts == ["draft 2: \\boxed{0.5}"]


async def test_negative_scores_never_turn_support_into_a_handicap(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4), "reward": [[-1.0, -1.2, -1.3]]})
    assert (await serve("best_of_n", engine, n=3, by="reward")).texts == ["draft 1: \\boxed{4}"]


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("score", [0.1, -0.1])
async def test_a_draft_without_a_score_cannot_win(serve: Any, weighted: bool, score: float) -> None:
    engine = Scripted({"draft": boxed(5, 4, 3), "judge": [[None, score, None]]})
    assert (await serve("best_of_n", engine, n=3, weighted=weighted)).texts == ["draft 1: \\boxed{4}"]


async def test_when_nothing_can_be_scored_the_majority_decides_and_a_note_says_so(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4), "judge": [[None, None, None]]})
    served = await serve("best_of_n", engine, n=3)
    assert served.texts == ["draft 1: \\boxed{4}"]
    assert served.notes["fallback"] == "majority"


async def test_an_unfinished_draft_ranks_below_finished_ones(serve: Any) -> None:
    cut = Draft("half \\boxed{5}", "length", n_tokens=2)
    engine = Scripted({"draft": [cut, *boxed(4)], "judge": [[1.0, 0.1]]})
    assert (await serve("best_of_n", engine, n=2)).texts == ["draft 0: \\boxed{4}"]


@pytest.mark.parametrize(("by", "want"), [("logprob", ("logprobs",)), ("certainty", ("certainty",))])
async def test_confidence_comes_with_the_drafts(serve: Any, by: str, want: tuple[str, ...]) -> None:
    drafts = [measured("a poem", -2.0, 1.0), measured("an ode", -0.5, 3.0), measured("a song", -1.0, 2.0)]
    engine = Scripted({"draft": drafts})
    assert (await serve("best_of_n", engine, n=3, by=by)).texts == ["an ode"]
    [op] = engine.asked
    assert isinstance(op, Generate)
    assert op.want == want


async def test_one_draft_is_not_scored(serve: Any) -> None:
    engine = Scripted({"draft": ["only"]})
    assert (await serve("best_of_n", engine, n=1)).texts == ["only"]


@pytest.mark.parametrize(
    ("client", "knob", "used"), [(None, None, 0.8), (0.0, None, 0.8), (0.3, None, 0.3), (0.3, 1.2, 1.2)]
)
async def test_drafts_are_sampled_warm(serve: Any, ask: Any, client: Any, knob: Any, used: float) -> None:
    engine = Scripted({"draft": boxed(1, 2)})
    await serve("best_of_n", engine, ask(temperature=client), n=2, by="majority", temperature=knob)
    [op] = engine.asked
    assert isinstance(op, Generate)
    assert op.chat.sampling.temperature == used


async def test_several_choices_are_the_best_so_many(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5, 4, 4, 3), "judge": [[0.9, 0.5, 0.6, 0.1]]})
    served = await serve("best_of_n", engine, n=4, choices=3)
    assert served.texts == ["draft 2: \\boxed{4}", "draft 1: \\boxed{4}", "draft 0: \\boxed{5}"]


async def test_more_choices_than_drafts_is_a_bad_request(serve: Any) -> None:
    with pytest.raises(BadRequest, match=r"n=2 drafts, so it cannot fill 3 choices"):
        await serve("best_of_n", Scripted({}), n=2, choices=3)


async def test_tool_calls_agree_by_name_and_arguments(serve: Any, ask: Any) -> None:
    def call(arguments: str) -> Draft:
        return Draft("", "tool_calls", (ToolCall(arguments, "look", arguments),), n_tokens=1)

    engine = Scripted({"draft": [call('{"b":1}'), call('{"a":1,"b":2}'), call('{"b": 2, "a": 1}')]})
    served = await serve("best_of_n", engine, n=3, by="majority")
    assert served.outcome.answers[0].tool_calls[0].arguments == '{"a":1,"b":2}'


async def test_parallel_tool_calls_agree_in_any_order(serve: Any) -> None:
    def calls(*names: str) -> Draft:
        return Draft("", "tool_calls", tuple(ToolCall(name, name, "{}") for name in names), n_tokens=1)

    engine = Scripted({"draft": [calls("x"), calls("a", "b"), calls("b", "a")]})
    served = await serve("best_of_n", engine, n=3, by="majority")
    assert [call.name for call in served.outcome.answers[0].tool_calls] == ["a", "b"]


async def test_a_draft_of_the_wrong_shape_cannot_win(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_schema", "n", {"type": "object"}))
    engine = Scripted({"draft": ['{"x": 1', '{"x": 2}'], "json_schema": [[False, True]], "judge": [[0.9, 0.2]]})
    served = await serve("best_of_n", engine, question, n=2)
    assert served.texts == ['{"x": 2}']
    assert engine.asked[1].spec == {"schema": {"type": "object"}}  # type: ignore[union-attr]


async def test_json_answers_agree_by_value(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    drafts = ['{"x": 1}', '{"x": 2, "y": 1}', '{"y":1,"x":2}']
    engine = Scripted({"draft": drafts, "json_object": [[True, True, True]]})
    assert (await serve("best_of_n", engine, question, n=3, by="majority")).texts == [drafts[1]]


async def test_the_most_agreed_draft_is_served_when_time_ends_the_scoring(serve: Any) -> None:
    gate = Gated(Scripted({"draft": boxed(5, 4, 4)}), holds=lambda op, _: op.kind == "score")
    served = await serve("best_of_n", gate, n=3, budget=Budget(seconds=0.05))
    assert served.texts == ["draft 1: \\boxed{4}"]
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 1)


async def test_the_most_agreed_draft_is_served_when_the_budget_ends_before_the_scoring(serve: Any) -> None:
    served = await serve("best_of_n", Scripted({"draft": boxed(5, 4, 4)}), n=3, budget=Budget(calls=3))
    assert served.texts == ["draft 1: \\boxed{4}"]
    assert (served.outcome.stopped, served.outcome.degraded) == ("budget", "kept")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1000


async def accuracy(serve: Any, engine: Simulated, **knobs: Any) -> float:
    right = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("best_of_n", engine, question, seed=i, **knobs)
        right += engine.brain.is_right(question, served.outcome.answers[0].text)
    return right / RUNS


def sigma(p: float) -> float:
    return float((p * (1 - p) / RUNS) ** 0.5)


@pytest.mark.parametrize("n", [1, 4, 8])
async def test_with_a_perfect_judge_one_right_draft_is_enough(serve: Any, n: int) -> None:
    law = 1 - (1 - 0.3) ** n
    got = await accuracy(serve, Simulated(0.3, 1.0, length=8), n=n, weighted=False)
    assert abs(got - law) < 4 * sigma(law)


async def test_a_judge_without_taste_is_worth_one_draft(serve: Any) -> None:
    got = await accuracy(serve, Simulated(0.3, 0.5, length=8), n=4, weighted=False)
    assert abs(got - 0.3) < 4 * sigma(0.3)


async def test_the_majority_of_five_follows_the_binomial_tail(serve: Any) -> None:
    got = await accuracy(serve, Simulated(0.6, rivals=1, length=8), n=5, by="majority")
    assert abs(got - 0.68256) < 4 * sigma(0.68256)


@pytest.mark.parametrize(("by", "calls"), [("judge", 16), ("pairwise", 8 + 28), ("logprob", 8), ("majority", 8)])
async def test_the_cost_is_n_generations_and_what_the_scorer_takes(serve: Any, by: str, calls: int) -> None:
    served = await serve("best_of_n", Simulated(), n=8, by=by)
    bill = served.outcome.bill
    assert bill.total.calls == calls
    assert bill.phases["draft"].calls == 8
    assert bill.total.completion == sum(d.n_tokens for op in served.ops for d in getattr(op.result, "drafts", ())) + (
        calls - 8
    )
    assert bill.discarded == bill.total.completion - served.outcome.answers[0].n_tokens
