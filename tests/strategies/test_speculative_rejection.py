"""Speculative rejection: checkpoints, survivors, ends, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Format
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate, Score
from strop.strategies.testing import Gated, Scripted, Simulated


def cut(text: str) -> Draft:
    """An answer that has reached the checkpoint."""
    return Draft(text, "length", n_tokens=0)


def asked(engine: Any) -> list[tuple[int | None, str]]:
    """The limit of every continuation and the text it continues."""
    ops = [op for op in engine.asked if isinstance(op, Generate) and op.prefix]
    return [(op.chat.sampling.max_tokens, op.prefix.draft.text) for op in ops]


async def test_the_worse_half_is_abandoned_and_the_best_survivor_is_served(serve: Any) -> None:
    engine = Scripted({"draft": [*map(cut, "abcd"), " end", " fin"], "judge": [[0.1, 0.9, 0.8, 0.2], [0.3, 0.6]]})
    served = await serve("speculative_rejection", engine, n=4)
    assert asked(engine) == [(None, "b"), (None, "c")]
    assert served.texts == ["c fin"]
    assert engine.asked[0].n == 4  # type: ignore[union-attr]


async def test_lengths_double_from_checkpoint_to_checkpoint(serve: Any) -> None:
    script = [*map(cut, "abcdefgh"), *[cut("+")] * 4, *["."] * 2]
    scores = [[i / 10 for i in range(8)], [i / 10 for i in range(4)], [0.5, 0.6]]
    engine = Scripted({"draft": script, "judge": scores})
    served = await serve("speculative_rejection", engine, n=8, first=100)
    limits = [op.chat.sampling.max_tokens for op in engine.asked if isinstance(op, Generate)]
    assert limits == [100, 100, 100, 100, 100, None, None]
    assert served.notes["checkpoint"] == 400
    assert (served.notes["rejections"], served.notes["survivors"]) == (2, 2)


async def test_an_ended_answer_competes_with_its_score_and_is_scored_once(serve: Any) -> None:
    engine = Scripted({"draft": ["whole", cut("b"), cut("c"), " end"], "judge": [[0.7, 0.1, 0.8], [0.6]]})
    served = await serve("speculative_rejection", engine, n=3)
    assert served.texts == ["whole"]
    assert [len(op.drafts) for op in engine.asked if isinstance(op, Score)] == [3, 1]


async def test_an_answer_that_cannot_be_scored_is_abandoned_first(serve: Any) -> None:
    engine = Scripted(
        {"draft": [cut("a"), cut("b"), cut("c"), cut("d"), "1", "2"], "judge": [[None, 0.1, None, 0.2], [0.5, 0.4]]}
    )
    await serve("speculative_rejection", engine, n=4)
    assert [text for _, text in asked(engine)] == ["d", "b"]


async def test_an_answer_cut_off_by_the_client_is_abandoned_before_those_that_can_be_whole(
    serve: Any, ask: Any
) -> None:
    full = Draft("full", "length", n_tokens=50)
    engine = Scripted({"draft": [full, cut("b"), cut("c"), "1", "2"], "judge": [[0.9, 0.1, 0.2], [0.1, 0.1]]})
    served = await serve("speculative_rejection", engine, ask(max_tokens=50), n=3)
    assert served.texts == ["c1"]


async def test_process_rewards_may_score_the_beginnings(serve: Any) -> None:
    engine = Scripted({"draft": [cut("a"), cut("b"), cut("c"), "1"], "prm": [[0.1], [0.9], [0.2], [0.5]]})
    assert (await serve("speculative_rejection", engine, n=3, by="prm", survivors=1, reject=0.6)).texts == ["b1"]


async def test_json_is_scored_whole(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted(
        {"draft": ['{"x":', '{"x": 2}', "{}"], "judge": [[0.9, 0.2, 0.1]], "json_object": [[False, True, True]]}
    )
    assert (await serve("speculative_rejection", engine, question, n=3)).texts == ['{"x": 2}']


async def test_choices_are_never_abandoned(serve: Any) -> None:
    engine = Scripted({"draft": [*map(cut, "abcd"), "1", "2", "3"], "judge": [[0.1, 0.2, 0.3, 0.4], [0.3, 0.2, 0.1]]})
    served = await serve("speculative_rejection", engine, n=4, choices=3)
    assert served.texts == ["d1", "c2", "b3"]
    with pytest.raises(BadRequest, match="not enough for 3 choices"):
        await serve("speculative_rejection", Scripted({}), n=2, choices=3)


async def test_the_best_beginning_is_served_unfinished_when_time_is_up(serve: Any) -> None:
    script = Scripted({"draft": [*map(cut, "abc")], "judge": [[0.1, 0.9, 0.5]]})
    gate = Gated(script, holds=lambda op, span: "step[" in span.key)
    served = await serve("speculative_rejection", gate, n=3, budget=Budget(seconds=0.2))
    assert (served.texts, served.outcome.answers[0].finish) == (["b"], "length")
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 2)


async def test_a_whole_answer_is_served_when_the_budget_is_spent(serve: Any) -> None:
    engine = Scripted({"draft": ["whole", *map(cut, "bc")], "judge": [[0.1, 0.9, 0.5]]})
    served = await serve("speculative_rejection", engine, n=3, budget=Budget(calls=3))
    assert (served.texts, served.outcome.stopped) == (["whole"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "rejections"), [(4, 1), (8, 2), (16, 3), (32, 4)])
async def test_the_cost_is_a_few_times_n_beginnings_and_the_rest_of_the_survivors(
    serve: Any, n: int, rejections: int
) -> None:
    served = await serve("speculative_rejection", Simulated(length=3000), n=n, first=32, seed=2)
    assert served.notes["rejections"] == rejections
    answers = [op for op in served.ops if op.op.kind == "generate" and op.op.chat.sampling.max_tokens is None]
    rest = sum(op.usage.completion for op in answers)
    assert len(answers) == 2
    assert served.outcome.bill.phases["draft"].completion - rest == n * 32 * (1 + (rejections - 1) / 2)
    assert served.outcome.bill.phases["judge"].calls == n + n // 2 * (rejections > 0) + sum(
        n // 2**r for r in range(2, rejections + 1)
    )


async def test_where_beginnings_tell_nothing_it_is_a_best_of_the_survivors(serve: Any) -> None:
    engine, right, law = Simulated(0.4, 1.0, length=100), 0, 1 - 0.6**2
    for i in range(300):
        question = f"What is {i} + {i + 1}?"
        served = await serve("speculative_rejection", engine, question, n=8, first=16, seed=i)
        right += engine.brain.is_right(question, served.texts[0])
    assert abs(right / 300 - law) < 4 * (law * (1 - law) / 300) ** 0.5


async def test_a_scorer_that_knows_from_the_beginning_finds_the_best_of_all(serve: Any) -> None:
    def words(op: Generate) -> str:
        return f"{next(serial) * 7 % 16} " + "word " * 40 if op.prefix is None else " word" * 9

    for _ in range(3):
        serial = iter(range(16))
        engine = Scripted({"draft": words, "judge": lambda op: [float(d.text.split()[0]) for d in op.drafts]})
        assert (await serve("speculative_rejection", engine, n=16, first=16)).texts[0].startswith("15 ")
