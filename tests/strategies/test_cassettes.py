"""Recorded requests of every strategy, replayed without a model."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from strop.strategies import CATALOGUE
from strop.strategies.kit.events import Finished, OpDone, Started
from strop.strategies.kit.trace import Line, read
from strop.strategies.testing import replay

CASSETTES = sorted((Path(__file__).parents[1] / "cassettes").glob("*.jsonl"))


def lines_of(path: Path) -> list[Line]:
    return read(path.read_text(encoding="utf-8").splitlines())


def test_every_strategy_has_a_cassette() -> None:
    recorded = {line.strategy for path in CASSETTES for line in lines_of(path) if isinstance(line, Started)}
    assert recorded == set(CATALOGUE)


@pytest.mark.parametrize("path", CASSETTES, ids=lambda path: path.stem)
async def test_a_recorded_request_ends_as_it_did_in_any_order(path: Path) -> None:
    lines = lines_of(path)
    finished = lines[-1]
    assert isinstance(finished, Finished)
    for turn in range(3):
        shuffled = random.Random(turn).sample(lines, len(lines))
        outcome = await replay(shuffled, jitter=0.002 * turn, seed=turn)
        assert outcome.answers == finished.outcome.answers


@pytest.mark.parametrize("path", CASSETTES, ids=lambda path: path.stem)
def test_the_bill_is_the_sum_of_the_recorded_calls(path: Path) -> None:
    lines = lines_of(path)
    finished = lines[-1]
    assert isinstance(finished, Finished)
    calls = [line for line in lines if isinstance(line, OpDone)]
    assert finished.outcome.bill.total.completion == sum(call.usage.completion for call in calls)
    assert finished.outcome.bill.total.completion > 0
