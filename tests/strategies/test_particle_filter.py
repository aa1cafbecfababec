"""Particle filtering: weights, resampling, ends, determinism, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Format
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate, Steps
from strop.strategies.testing import Gated, Scripted, Simulated
from strop.strategies.testing.chain import Chain

BREAK = "\n\n"


def step(text: str) -> Draft:
    """A step that the blank line ended."""
    return Draft(text, "stop", n_tokens=0, stop_reason=BREAK)


def generations(engine: Any) -> list[Generate]:
    return [op for op in engine.asked if isinstance(op, Generate)]


async def test_a_light_particle_dies_and_a_heavy_one_is_doubled(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), step("b"), "c", "d"], "prm": [[0.001], [0.999], [0.3], [0.6]]})
    served = await serve("particle_filter", engine, n=2, ess=1.0, seed=1)
    assert [(op.n, op.prefix.draft.text) for op in generations(engine)[1:]] == [(2, "b")]  # type: ignore[union-attr]
    assert served.texts == ["b\n\nd"]
    assert served.notes["resampled"] == 1


@pytest.mark.parametrize(
    ("scores", "ess", "resampled"), [((0.5, 0.6), 0.9, 0), ((0.01, 0.99), 0.9, 1), ((0.5, 0.5), 1.0, 1)]
)
async def test_particles_are_resampled_only_when_few_carry_the_weight(
    serve: Any, scores: tuple[float, float], ess: float, resampled: int
) -> None:
    engine = Scripted({"draft": [step("a"), step("b"), "c", "d"], "prm": [[scores[0]], [scores[1]], [0.5], [0.5]]})
    served = await serve("particle_filter", engine, n=2, ess=ess, seed=1)
    assert served.notes["resampled"] == resampled
    assert len(generations(engine)) == 1 + (1 if resampled and scores[0] != scores[1] else 2)


async def test_an_ended_answer_keeps_its_weight_and_is_not_scored_again(serve: Any) -> None:
    engine = Scripted({"draft": ["end \\boxed{1}", step("b"), "c \\boxed{2}"], "prm": [[0.6], [0.5], [0.4]]})
    served = await serve("particle_filter", engine, n=2, seed=1)
    assert served.texts == ["end \\boxed{1}"]
    assert len([op for op in engine.asked if isinstance(op, Steps)]) == 3


async def test_a_promising_particle_can_displace_an_ended_answer(serve: Any) -> None:
    engine = Scripted({"draft": ["end", step("b"), "c", "d"], "prm": [[0.001], [0.999], [0.4], [0.3]]})
    served = await serve("particle_filter", engine, n=2, seed=1)
    assert served.texts == ["b\n\nc"]


async def test_a_particle_that_could_not_be_scored_lives_on(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), step("b"), "c", "d"], "judge": [[None, 0.5], [0.9, 0.1]]})
    served = await serve("particle_filter", engine, n=2, by="judge", seed=1)
    assert served.texts == ["a\n\nc"]


async def test_scores_that_are_no_probabilities_are_refused(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), step("b")], "reward": [[-3.0, 2.0]]})
    with pytest.raises(BadRequest, match=r"cannot weigh by 'reward'"):
        await serve("particle_filter", engine, n=2, by="reward")


async def test_served_is_the_heaviest_answer_or_one_drawn_by_weight(serve: Any) -> None:
    def engine() -> Scripted:
        return Scripted({"draft": ["a", "b"], "prm": [[0.2], [0.8]]})

    assert {(await serve("particle_filter", engine(), n=2, seed=i)).texts[0] for i in range(8)} == {"b"}
    drawn = [(await serve("particle_filter", engine(), n=2, choose="sample", seed=i)).texts[0] for i in range(400)]
    assert abs(drawn.count("b") / 400 - 16 / 17) < 4 * (16 / 17 / 17 / 400) ** 0.5


async def test_the_same_seed_gives_the_same_particles_whatever_is_faster(serve: Any, jittered: Any) -> None:
    runs = [
        await serve("particle_filter", jittered(Simulated(length=60), i), n=4, seed=5, choose="sample")
        for i in range(4)
    ]
    assert len({run.outcome.answers for run in runs}) == 1
    others = {(await serve("particle_filter", Simulated(length=60), n=4, seed=i)).texts[0] for i in range(5)}
    assert len(others) == 5


async def test_json_is_a_single_step(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted({"draft": ['{"x":', '{"x": 2}'], "judge": [[0.9, 0.2]], "json_object": [[False, True]]})
    assert (await serve("particle_filter", engine, question, n=2, by="judge")).texts == ['{"x": 2}']


async def test_several_choices_are_the_heaviest_particles(serve: Any) -> None:
    engine = Scripted({"draft": ["a", "b", "c"], "prm": [[0.1], [0.9], [0.5]]})
    assert (await serve("particle_filter", engine, n=3, choices=2)).texts == ["b", "c"]
    with pytest.raises(BadRequest, match=r"n=2 particles, so it cannot fill 3 choices"):
        await serve("particle_filter", Scripted({}), n=2, choices=3)


async def test_an_ended_answer_is_served_when_time_is_up(serve: Any) -> None:
    script = Scripted({"draft": ["end", step("b")], "prm": [[0.4], [0.5]]})
    gate = Gated(script, holds=lambda op, span: "step[" in span.key)
    served = await serve("particle_filter", gate, n=2, budget=Budget(seconds=0.2), ess=0.0)
    assert served.texts == ["end"]
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 1)


async def test_a_spent_budget_ends_the_filter_with_what_has_been_written(serve: Any) -> None:
    engine = Scripted({"draft": [step("a"), step("b"), "c", "d"], "prm": [[0.001], [0.999]]})
    served = await serve("particle_filter", engine, n=2, ess=1.0, budget=Budget(calls=4))
    assert served.texts == ["b\n\nc"]
    assert (served.outcome.stopped, served.outcome.degraded) == ("budget", "kept")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 300


async def accuracy(serve: Any, engine: Any, **knobs: Any) -> float:
    right = 0
    for i in range(RUNS):
        served = await serve("particle_filter", engine, f"What is {i} + {i + 1}?", seed=i, **knobs)
        right += engine.is_right(served.texts[0])
    return right / RUNS


def sigma(p: float) -> float:
    return float((p * (1 - p) / RUNS) ** 0.5)


async def test_with_perfect_rewards_every_step_needs_one_right_particle(serve: Any) -> None:
    law = (1 - (1 - 0.5) ** 4) ** 4
    assert abs(await accuracy(serve, Chain(4, 0.5, sure=0.99999), n=4, ess=1.0) - law) < 4 * sigma(law)


async def test_rewards_that_know_nothing_leave_the_models_own_accuracy(serve: Any) -> None:
    law = 0.8**3
    assert abs(await accuracy(serve, Chain(3, 0.8, taste=0.5), n=4) - law) < 4 * sigma(law)


async def test_one_particle_is_plain_sampling(serve: Any) -> None:
    engine, right = Simulated(0.4, length=20), 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        right += engine.brain.is_right(
            question, (await serve("particle_filter", engine, question, n=1, seed=i)).texts[0]
        )
    assert abs(right / RUNS - 0.4) < 4 * sigma(0.4)


async def test_the_cost_is_n_generations_and_at_most_n_scores_per_step(serve: Any) -> None:
    engine = Chain(5, 0.5)
    bill = (await serve("particle_filter", engine, n=4, seed=1)).outcome.bill
    assert bill.total.calls == 4 * 5
    assert len([op for op in engine.asked if isinstance(op, Steps)]) == 4 * 5
