from math import exp, log, sqrt
from random import Random

import anyio
import pytest

from strop.server.scoring.calibration import Calibration, Platt, Running, calibrated, dumps, fit, loads
from strop.strategies.kit.capabilities import Capabilities
from strop.strategies.kit.ops import Score, Scored
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Draft, Usage


def running(values):
    total = Running()
    for value in values:
        total = total.add(value)
    return total


def test_mean_and_spread_are_those_of_the_values():
    total = running([1.0, 2.0, 3.0, 4.0])
    assert (total.count, total.mean, total.spread) == (4, 2.5, pytest.approx(sqrt(5 / 3)))


def test_the_spread_is_exact_far_from_zero_and_unknown_for_one_value():
    assert running([1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16]).spread == pytest.approx(sqrt(30))
    assert running([3.0]).spread is None
    with pytest.raises(ValueError, match="nan"):
        running([float("nan")])


def test_two_answers_are_fitted_as_computed_by_hand():
    """Targets 1/3 at -1 and 2/3 at 1: slope ln 2, offset 0."""
    platt = fit([(-1.0, False), (1.0, True)])
    assert (platt.slope, platt.offset) == (pytest.approx(log(2)), pytest.approx(0, abs=1e-9))
    assert platt(1.0) == pytest.approx(2 / 3)


def test_mixed_labels_are_fitted_as_computed_by_hand():
    """Mean targets 0.4 at 0 and 0.6 at 1: offset ln(2/3), slope 2 ln(3/2)."""
    platt = fit([(0.0, False), (0.0, False), (0.0, True), (1.0, True), (1.0, True), (1.0, False)])
    assert platt.offset == pytest.approx(log(2 / 3))
    assert platt.slope == pytest.approx(2 * log(3 / 2))


def test_values_that_are_all_the_same_tell_only_how_often_answers_are_right():
    platt = fit([(5.0, True), (5.0, True), (5.0, False)])
    assert platt.slope == 0
    assert platt(5.0) == pytest.approx((3 / 4 + 3 / 4 + 1 / 3) / 3)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_parameters_are_better(seed, scale):
    random = Random(seed)
    values = [random.gauss(0.3, 1) for _ in range(2000)]
    pairs = [(scale * v, random.random() < 1 / (1 + exp(1 - 2 * v))) for v in values]
    platt = fit(pairs)
    right = sum(label for _, label in pairs)

    def loss(slope, offset):
        targets = [(v, (right + 1) / (right + 2) if label else 1 / (len(pairs) - right + 2)) for v, label in pairs]
        ps = [(Platt(slope, offset)(v), t) for v, t in targets]
        return -sum(t * log(p) + (1 - t) * log(1 - p) for p, t in ps)

    best = loss(platt.slope, platt.offset)
    for by in (-1e-3, 1e-3):
        assert loss(platt.slope * (1 + by), platt.offset) > best
        assert loss(platt.slope, platt.offset + by) > best
    assert platt.slope * scale == pytest.approx(2, abs=0.3)


def test_values_that_divide_the_labels_perfectly_have_a_finite_slope():
    platt = fit([(float(i), i >= 5) for i in range(10)])
    assert 0 < platt.slope < 20
    assert platt(0.0) < 0.2 < 0.8 < platt(9.0)


@pytest.mark.parametrize(
    "pairs", [[], [(1.0, True)], [(1.0, False), (2.0, False)], [(float("inf"), True), (0.0, False)]]
)
def test_labels_of_one_kind_and_strange_values_are_refused(pairs):
    with pytest.raises(ValueError, match=r"right and wrong|not finite"):
        fit(pairs)


def test_probabilities_do_not_overflow():
    assert Platt(1.0, 0.0)(-1e4) == 0.0
    assert Platt(1.0, 0.0)(1e4) == 1.0


def test_a_calibrated_scorer_gives_probabilities_and_keeps_what_could_not_be_told():
    async def scorer(op, span, below, can):
        return Scored((0.0, None, 3.0), ("a", "b", "c"), Usage(prompt=7))

    wrapped = calibrated(scorer, Calibration(platt=Platt(log(3), 0.0)))
    op = Score(Chat(), (Draft("x"), Draft("y"), Draft("z")))
    scored = anyio.run(wrapped, op, Span("k"), None, Capabilities(frozenset()))
    assert scored.values == (0.5, None, pytest.approx(27 / 28))
    assert (scored.notes, scored.usage) == (("a", "b", "c"), Usage(prompt=7))


def test_a_scorer_without_labels_cannot_be_calibrated():
    with pytest.raises(ValueError, match="no labels"):
        calibrated(None, Calibration())


def test_a_table_survives_json_exactly():
    pairs = [(0.1, False), (0.7, True), (0.3, True)]
    known = Calibration().seen(0.1).seen(1 / 3).fitted(pairs)
    table = {("judge", "small"): known, ("prm", "large"): Calibration().seen(0.2)}
    assert loads(dumps(table)) == table


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "calibrations": [{"scorer": "x"}]}']
)
def test_text_that_is_no_table_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        loads(text)
