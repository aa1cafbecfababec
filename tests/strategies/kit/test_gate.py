"""The trust gate, the break-even point, and what else revise loops share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.strategies.kit import Chat, Context, Draft, Format, Message, ToolCall, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.gate import (
    HOTTEST,
    avoiding,
    break_even,
    disqualified,
    needs_messages,
    objection,
    warmer,
)
from strop.strategies.testing import Scripted

PART = st.floats(0, 1)


@pytest.mark.parametrize(
    ("keeps", "fixes", "point"),
    [(0.9, 0.3, 0.75), (1.0, 0.2, 1.0), (0.5, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.5), (0.846, 0.014, 0.0833)],
)
def test_the_break_even_point_is_as_computed_by_hand(keeps: float, fixes: float, point: float) -> None:
    assert break_even(keeps, fixes) == pytest.approx(point, abs=1e-4)


@given(keeps=PART, fixes=PART, p=PART)
def test_revising_pays_exactly_below_the_break_even_point(keeps: float, fixes: float, p: float) -> None:
    gain = p * keeps + (1 - p) * fixes - p
    if abs(gain) > 1e-9:
        assert (gain > 0) is (p < break_even(keeps, fixes))


@pytest.mark.parametrize(("keeps", "fixes"), [(-0.1, 0.5), (1.1, 0.5), (0.5, -0.1), (0.5, 1.1), (float("nan"), 0.5)])
def test_rates_that_are_no_probabilities_are_refused(keeps: float, fixes: float) -> None:
    with pytest.raises(ValueError, match="must be probabilities"):
        break_even(keeps, fixes)


OLD, NEW = Draft("\\boxed{5}"), Draft("\\boxed{4}")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([0.2, 0.8], None),
        ([0.5, 0.5], "the gate prefers the old answer"),
        ([0.6, 0.5], "the gate prefers the old answer"),
        ([None, 0.9], "the gate could not tell"),
        ([0.1, None], "the gate could not tell"),
        ([None, None], "the gate could not tell"),
    ],
)
async def test_the_new_answer_must_be_strictly_preferred(ask: Any, values: list[Any], why: str | None) -> None:
    engine = Scripted({"judge": [values]})
    assert await objection(Context(engine), ask(), OLD, NEW, "judge") == why


async def test_without_a_gate_any_finished_revision_is_taken(ask: Any) -> None:
    assert await objection(Context(Scripted({})), ask(), OLD, NEW, "none") is None


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (OLD, Draft("so \\boxed{5}"), "the revision gives the same answer"),
        (Draft("a\npoem"), Draft("a\npoem"), "the revision gives the same answer"),
        (OLD, Draft("4 becau", "length"), "the revision is unfinished or has the wrong shape"),
        (OLD, Draft("  "), "the revision is unfinished or has the wrong shape"),
        (Draft("", "tool_calls", (ToolCall("1", "look", "{}"),)), NEW, "the revision dropped the tool calls"),
    ],
)
async def test_some_revisions_lose_without_asking_anybody(ask: Any, old: Draft, new: Draft, why: str) -> None:
    assert await objection(Context(Scripted({})), ask(), old, new, "judge") == why


async def test_a_revision_of_the_wrong_shape_is_disqualified_and_one_of_the_right_shape_is_not(ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted({"json_object": [[True, False], [False, True]]})
    ctx = Context(engine)
    assert await disqualified(ctx, question, Draft("{}"), Draft("{")) is not None
    assert await disqualified(ctx, question, Draft("{"), Draft("{}")) is None


@pytest.mark.parametrize(
    ("asked", "step", "turn", "got"),
    [
        (None, 0.0, 5, None),
        (None, 0.15, 0, None),
        (None, 0.15, 2, 0.3),
        (0.7, 0.2, 1, 0.9),
        (1.0, 0.5, 4, HOTTEST),
        (1.8, 0.5, 2, 1.8),
    ],
)
def test_the_temperature_rises_by_a_step_per_round(
    ask: Any, asked: float | None, step: float, turn: int, got: float | None
) -> None:
    assert warmer(ask(temperature=asked), step, turn) == (None if got is None else pytest.approx(got))


def test_answers_to_avoid_stand_once_each_behind_the_fence_of_the_last_turn(ask: Any) -> None:
    ctx = Context(Scripted({}))
    asked = Chat((Message("system", "s"), Message("user", "Revise.")), tag="revise")
    more = avoiding(ctx, asked, ["5", "6 </tried fence>", "5"])
    assert (len(more.messages), more.messages[0], more.tag) == (2, asked.messages[0], "revise")
    assert more.messages[1].content.startswith("Revise.\n\n")
    assert more.messages[1].content.endswith("<tried fence>\n5\n\n6 </tried >\n</tried fence>")


def test_with_nothing_to_avoid_the_prompt_is_the_same(ask: Any) -> None:
    ctx = Context(Scripted({}))
    asked = prompt(ctx, "self_refine/revise", candidate="5", critique="No.")
    assert avoiding(ctx, asked, []) is asked


def test_a_raw_prompt_has_no_turn_to_review() -> None:
    with pytest.raises(BadRequest, match="somebody needs messages"):
        needs_messages(Chat((), prompt="Once upon"), "somebody")
