"""First finish: who counts as first, votes of the first m, ends, laws."""

from __future__ import annotations

from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Prefix
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate, Generated, Op, Result
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Usage
from strop.strategies.testing import Gated, Scripted, Simulated
from strop.strategies.testing.words import continued, tokens_of


class Runners:
    """Draft i of the first op is an answer of `lengths[i]` words that ends in a box with `answers[i]`."""

    def __init__(self, lengths: list[int], answers: list[object] | None = None) -> None:
        self.texts = [
            f"{i}" + " word" * (length - 2) + (f" \\boxed{{{answer}}}" if answer is not None else "\nhm")
            for i, (length, answer) in enumerate(zip(lengths, answers or range(len(lengths)), strict=True))
        ]
        self.spent = 0

    async def __call__(self, op: Op, span: Span) -> Result:
        assert isinstance(op, Generate)
        prefix = op.prefix or Prefix(Draft(""))
        drafts = []
        for i in range(op.n):
            whole = self.texts[int(prefix.draft.tokens.texts[0]) if op.prefix else i]
            rest = tokens_of(whole)[prefix.draft.n_tokens :][: op.chat.sampling.max_tokens]
            ended = prefix.draft.n_tokens + len(rest) == len(tokens_of(whole))
            added = Draft("".join(rest.texts), "stop" if ended else "length", (), rest, len(rest))
            drafts.append(continued(op.prefix, added) if op.prefix else added)
        spent = sum(draft.n_tokens for draft in drafts) - op.n * prefix.draft.n_tokens
        self.spent += spent
        return Generated(tuple(drafts), Usage(1, 0, spent, 0, op.n))


async def test_the_first_answer_to_end_is_served_and_the_others_are_abandoned(serve: Any) -> None:
    engine = Runners([90, 40, 200])
    served = await serve("first_finish", engine, n=3, stretch=16)
    assert served.texts == [engine.texts[1]]
    assert (served.notes["checkpoints"], served.notes["lengths"]) == (3, [40, 48, 48])


async def test_of_answers_that_end_in_one_stretch_the_shortest_counts_as_first(serve: Any) -> None:
    engine = Runners([60, 50, 55])
    assert (await serve("first_finish", engine, n=3, stretch=256)).texts == [engine.texts[1]]


async def test_the_first_m_vote_and_later_answers_do_not(serve: Any) -> None:
    engine = Runners([20, 30, 40, 50, 50], [1, 2, 2, 1, 1])
    assert (await serve("first_finish", engine, n=5, m=3, stretch=16)).texts == [engine.texts[1]]


async def test_a_tie_of_the_first_goes_to_the_shortest(serve: Any) -> None:
    engine = Runners([30, 20, 40], [1, 2, 3])
    assert (await serve("first_finish", engine, n=3, m=2, stretch=16)).texts == [engine.texts[1]]


async def test_an_answer_that_cannot_be_read_is_not_the_first(serve: Any) -> None:
    engine = Runners([20, 50], [None, 7])
    assert (await serve("first_finish", engine, n=2, stretch=16)).texts == [engine.texts[1]]


async def test_an_answer_cut_off_by_the_clients_limit_is_not_the_first(serve: Any, ask: Any) -> None:
    engine = Runners([80, 30])
    served = await serve("first_finish", engine, ask(max_tokens=40), n=2, stretch=64)
    assert served.texts == [engine.texts[1]]


async def test_without_any_readable_answer_the_shortest_whole_one_is_served(serve: Any) -> None:
    engine = Runners([60, 50, 70], [None, None, None])
    assert (await serve("first_finish", engine, n=3, stretch=16)).texts == [engine.texts[1]]


async def test_a_longer_wait_than_there_are_answers_waits_for_all(serve: Any) -> None:
    engine = Runners([20, 30], [5, 5])
    assert (await serve("first_finish", engine, n=2, m=9, stretch=16)).notes["ended"] == 2


async def test_several_choices_are_the_first_so_many(serve: Any) -> None:
    engine = Runners([30, 20, 60])
    served = await serve("first_finish", engine, n=3, stretch=16, choices=3)
    assert [a.finish for a in served.outcome.answers] == ["stop", "stop", "length"]
    assert served.texts[:2] == [engine.texts[1], engine.texts[0]]
    with pytest.raises(BadRequest, match=r"n=2 answers, so it cannot fill 3 choices"):
        await serve("first_finish", Scripted({}), n=2, choices=3)


async def test_the_result_does_not_depend_on_timing(serve: Any, jittered: Any) -> None:
    runs = [
        await serve("first_finish", jittered(Simulated(length=80), i), n=4, m=2, stretch=16, seed=3) for i in range(4)
    ]
    assert len({run.outcome.answers for run in runs}) == 1


async def test_an_ended_answer_is_served_when_time_is_up(serve: Any) -> None:
    engine = Runners([20, 90, 90])
    gate = Gated(engine, holds=lambda op, span: gate.started > 4)
    served = await serve("first_finish", gate, n=3, m=2, stretch=16, budget=Budget(seconds=0.2))
    assert served.texts == [engine.texts[0]]
    assert (served.outcome.stopped, served.outcome.degraded, gate.in_flight) == ("deadline", "kept", 0)


async def test_the_longest_unfinished_answer_is_served_when_the_budget_is_spent(serve: Any) -> None:
    served = await serve("first_finish", Runners([90, 90]), n=2, stretch=16, budget=Budget(tokens=48))
    assert (served.outcome.stopped, served.outcome.answers[0].finish) == ("budget", "length")
    assert served.outcome.bill.total.completion == 48


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 3])
async def test_the_cost_is_at_most_n_times_the_mth_shortest_and_a_stretch(serve: Any, m: int) -> None:
    for stretch in (16, 50):
        lengths = [31, 200, 64, 130, 90]
        engine = Runners(lengths, [1] * 5)
        served = await serve("first_finish", engine, n=5, m=m, stretch=stretch)
        last = sorted(lengths)[m - 1]
        reached = -(-last // stretch) * stretch
        assert engine.spent == sum(min(length, reached) for length in lengths) <= 5 * (last + stretch)
        assert served.outcome.bill.total.completion == engine.spent


async def test_waiting_for_all_of_five_is_a_majority_vote(serve: Any) -> None:
    engine, right, law = Simulated(0.6, rivals=1, length=8), 0, 0.68256
    for i in range(500):
        question = f"What is {i} + {i + 1}?"
        served = await serve("first_finish", engine, question, n=5, m=5, stretch=512, seed=i)
        right += engine.brain.is_right(question, served.texts[0])
    assert abs(right / 500 - law) < 4 * (law * (1 - law) / 500) ** 0.5


async def test_where_length_tells_nothing_the_first_is_worth_one_answer(serve: Any) -> None:
    engine, right = Simulated(0.4, length=8), 0
    for i in range(500):
        question = f"What is {i} + {i + 1}?"
        right += engine.brain.is_right(question, (await serve("first_finish", engine, question, n=4, seed=i)).texts[0])
    assert abs(right / 500 - 0.4) < 4 * (0.24 / 500) ** 0.5
