"""DeepConf: who votes, weights, abandoned answers, laws."""

from __future__ import annotations

from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Prefix, Tokens
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate, Generated, Op, Result
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Usage
from strop.strategies.testing import Gated, Scripted, Simulated

OFFLINE: dict[str, Any] = {"measure": "mean", "keep": 100.0}


class Writers:
    """The i-th answer begun has `lengths[i]` tokens of confidence `levels[i]` and says `answers[i]`.

    A level of two numbers means: the first up to token 16, then the second.
    """

    def __init__(self, levels: list[Any], answers: list[Any], lengths: list[int] | None = None) -> None:
        self.spent = 0
        self._begun = 0
        self._drafts = [
            self._whole(i, level, answer, length)
            for i, (level, answer, length) in enumerate(zip(levels, answers, lengths or [4] * len(levels), strict=True))
        ]

    def _whole(self, place: int, level: Any, answer: Any, length: int) -> Draft:
        early, late = level if isinstance(level, tuple) else (level, level)
        texts = (f"{place}:", *["w "] * (length - 2), f"\\boxed{{{answer}}}")
        rows = [early if i < 16 else late for i in range(length)]
        top = tuple(((1, "a", -c), (2, "b", -c)) for c in rows)
        return Draft("".join(texts), tokens=Tokens((place,) * length, texts, top=top), n_tokens=length)

    async def __call__(self, op: Op, span: Span) -> Result:
        assert isinstance(op, Generate)
        assert op.chat.sampling.top_logprobs >= 2
        start = (op.prefix or Prefix(Draft(""))).draft.n_tokens
        drafts = []
        for _ in range(op.n):
            if op.prefix:
                whole = self._drafts[op.prefix.draft.tokens.ids[0]]
            else:
                whole, self._begun = self._drafts[self._begun], self._begun + 1
            end = start + (op.chat.sampling.max_tokens or 10_000)
            drafts.append(whole if end >= whole.n_tokens else whole.cut(end))
        spent = sum(draft.n_tokens - start for draft in drafts)
        self.spent += spent
        return Generated(tuple(drafts), Usage(1, 0, spent, 0, op.n))


async def test_votes_weigh_what_the_model_was_sure_of(serve: Any) -> None:
    served = await serve("deepconf", Writers([1.0, 1.0, 3.0], [5, 5, 4]), n=3, **OFFLINE)
    assert served.texts[0].startswith("2:")
    assert served.notes["share"] == pytest.approx(0.6)
    equal = await serve("deepconf", Writers([1.0, 1.0, 1.0], [5, 5, 4]), n=3, **OFFLINE)
    assert equal.texts[0].startswith("0:")


async def test_the_surest_draft_of_the_winning_answer_is_served(serve: Any) -> None:
    served = await serve("deepconf", Writers([1.0, 2.0, 2.5], [4, 4, 5]), n=3, **OFFLINE)
    assert served.texts[0].startswith("1:")


async def test_only_the_surest_percent_votes(serve: Any) -> None:
    levels, answers = [1.0, 1.1, 1.2, 2.0, 1.3, 1.4], [5, 5, 5, 4, 5, 5]
    served = await serve("deepconf", Writers(levels, answers), n=6, measure="mean", keep=10.0)
    assert served.texts[0].startswith("3:")
    assert served.notes["voters"] == 1


async def test_the_measure_decides_which_part_of_an_answer_counts(serve: Any) -> None:
    def engine() -> Writers:
        return Writers([(2.0, 2.0), (1.0, 5.0)], [4, 5], [32, 32])

    for measure, place in (("lowest", "0:"), ("tail", "1:"), ("bottom", "0:"), ("mean", "1:")):
        served = await serve("deepconf", engine(), n=2, keep=50.0, measure=measure, window=16)
        assert served.texts[0].startswith(place), measure


async def test_an_engine_without_alternatives_leaves_a_plain_majority(serve: Any) -> None:
    engine = Scripted({"draft": ["a \\boxed{5}", "b \\boxed{4}", "c \\boxed{4}"]})
    served = await serve("deepconf", engine, n=3)
    assert served.texts == ["b \\boxed{4}"]
    assert served.notes["threshold"] is None


async def test_the_clients_own_alternatives_are_not_fewer(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": ["a"]})
    await serve("deepconf", engine, ask(logprobs=True, top_logprobs=7), n=1, top=3)
    assert engine.asked[0].chat.sampling.top_logprobs == 7  # type: ignore[union-attr]


async def test_online_an_unsure_answer_is_abandoned_at_its_first_checkpoint_and_does_not_vote(serve: Any) -> None:
    engine = Writers([2.0, 2.1, 1.0, 2.2], [4, 5, 4, 5], [20, 20, 200, 20])
    served = await serve("deepconf", engine, n=4, online=True, warmup=2, window=16, keep=90.0)
    assert served.texts[0].startswith("3:")
    assert engine.spent == 20 + 20 + 16 + 20
    assert served.notes["voters"] == 2


async def test_online_an_answer_that_becomes_unsure_is_abandoned_there(serve: Any) -> None:
    engine = Writers([2.0, 2.0, (3.0, 1.0), 3.0], [4, 4, 5, 5], [20, 20, 200, 40])
    await serve("deepconf", engine, n=4, online=True, warmup=2, window=16)
    assert engine.spent == 20 + 20 + 32 + 40


async def test_online_sampling_ends_when_the_votes_agree(serve: Any) -> None:
    served = await serve("deepconf", Writers([2.0] * 16, [4] * 16), n=16, online=True, warmup=4)
    assert served.notes["sampled"] == 4
    split = await serve("deepconf", Writers([2.0] * 16, [4, 5] * 8), n=16, online=True, warmup=4)
    assert split.notes["sampled"] == 16
    one = await serve("deepconf", Writers([2.0] * 16, [4] * 16), n=16, online=True, warmup=1)
    assert one.notes["sampled"] == 4


async def test_several_choices_are_the_best_by_votes(serve: Any) -> None:
    served = await serve("deepconf", Writers([1.0, 2.0, 3.0], [5, 5, 4]), n=3, choices=3, **OFFLINE)
    assert [text[0] for text in served.texts] == ["2", "1", "0"]
    with pytest.raises(BadRequest, match=r"n=2 answers, so it cannot fill 3 choices"):
        await serve("deepconf", Scripted({}), n=2, choices=3)


async def test_the_warm_ups_winner_is_served_when_time_is_up(serve: Any) -> None:
    gate = Gated(Writers([2.0, 2.5, 2.0, 2.0], [4, 5, 4, 4]), holds=lambda op, span: gate.started > 1)
    served = await serve("deepconf", gate, n=4, online=True, warmup=2, budget=Budget(seconds=0.2))
    assert served.texts[0].startswith("1:")
    assert (served.outcome.stopped, served.outcome.degraded, gate.in_flight) == ("deadline", "kept", 0)


async def test_the_warm_ups_winner_is_served_when_the_budget_is_spent(serve: Any) -> None:
    engine = Writers([2.0, 2.5, 2.0, 2.0], [4, 5, 4, 4])
    served = await serve("deepconf", engine, n=4, online=True, warmup=2, budget=Budget(tokens=8))
    assert served.texts[0].startswith("1:")
    assert served.outcome.stopped == "budget"


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 400


async def accuracy(serve: Any, engine: Simulated, **knobs: Any) -> float:
    right = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("deepconf", engine, question, seed=i, measure="mean", top=4, **knobs)
        right += engine.brain.is_right(question, served.texts[0])
    return right / RUNS


async def test_the_surer_of_two_is_right_as_often_as_confidence_tells_right_from_wrong(serve: Any) -> None:
    p, taste = 0.5, 0.8
    law = p * p + 2 * p * (1 - p) * taste
    got = await accuracy(serve, Simulated(p, taste, length=120), n=2, keep=1.0)
    assert abs(got - law) < 4 * (law * (1 - law) / RUNS) ** 0.5


async def test_confidence_that_knows_nothing_is_worth_one_draft(serve: Any) -> None:
    got = await accuracy(serve, Simulated(0.4, 0.5, length=12), n=4, keep=1.0)
    assert abs(got - 0.4) < 4 * (0.24 / RUNS) ** 0.5


async def test_all_votes_of_five_follow_the_binomial_tail_when_confidence_is_flat(serve: Any) -> None:
    got = await accuracy(serve, Simulated(0.6, 0.5, rivals=1, length=12), n=5, keep=100.0)
    assert abs(got - 0.68256) < 4 * (0.68256 * 0.31744 / RUNS) ** 0.5


async def test_the_cost_is_n_generations_and_no_scores(serve: Any) -> None:
    served = await serve("deepconf", Simulated(), n=9)
    assert served.outcome.bill.total.calls == 9
    assert [op.op.kind for op in served.ops] == ["generate"]
