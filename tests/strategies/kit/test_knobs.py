"""Knobs: what a client may set."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import Field

from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.knobs import check, knobs_of


async def example(
    ctx: Any, question: Any, n: Annotated[int, Field(ge=1, le=4, description="drafts")] = 2, fast: bool = False
) -> None: ...


MODEL = knobs_of(example)


def test_defaults_are_filled_in() -> None:
    assert check(MODEL, {}, "example") == {"n": 2, "fast": False}
    assert check(MODEL, {"n": 3}, "example") == {"n": 3, "fast": False}


@pytest.mark.parametrize(
    ("values", "param", "words"),
    [
        ({"n": 0}, "strop.n", "greater than or equal to 1"),
        ({"n": "many"}, "strop.n", "integer"),
        ({"m": 3}, "strop.m", "it has: n, fast"),
    ],
)
def test_a_wrong_knob_is_refused_by_name(values: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        check(MODEL, values, "example")
    assert refused.value.param == param
    assert refused.value.code == "invalid_knob"
    assert words in refused.value.message


def test_the_schema_carries_bounds_and_descriptions() -> None:
    schema = MODEL.model_json_schema()
    assert schema["properties"]["n"] == {
        "default": 2,
        "description": "drafts",
        "maximum": 4,
        "minimum": 1,
        "title": "N",
        "type": "integer",
    }
    assert schema["additionalProperties"] is False


def test_a_knob_without_a_default_is_no_knob() -> None:
    async def broken(ctx: Any, question: Any, n: int) -> None: ...

    with pytest.raises(TypeError, match="'n' is a reserved word or has no default"):
        knobs_of(broken)


def test_a_knob_may_not_take_a_reserved_word() -> None:
    async def broken(ctx: Any, question: Any, budget: int = 1) -> None: ...

    with pytest.raises(TypeError, match="budget"):
        knobs_of(broken)
