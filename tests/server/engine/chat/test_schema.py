"""Schemas that would take the grammar compiler down are refused first."""

from __future__ import annotations

from typing import Any

import pytest

from strop.server.engine.chat.schema import MAX_ITEMS, require_modest


def nested(levels: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "array", "maxItems": 10**9}, "add up"),
        ({"type": "array", "minItems": MAX_ITEMS + 1}, "add up"),
        ({"anyOf": [{"items": {"maxItems": 9_000}, "maxItems": 9_000}, {"allOf": [{"minItems": 3_000}]}]}, "add up"),
        (nested(64), "deeper than 64"),
        (nested(5_000), "deeper than 64"),
        ({"enum": ["x" * 200_000]}, "bytes"),
        ({"const": float("nan")}, "not JSON"),
        ({"const": "\ud800"}, "not JSON"),
        ({"const": object()}, "not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schema_that_is_too_much_is_refused_with_a_reason(schema: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        require_modest(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "array", "maxItems": MAX_ITEMS},
        {"properties": {"maxItems": {"type": "integer"}, "minItems": {"type": "array", "maxItems": 3}}},
        {"maxItems": -5, "minItems": "many"},
        nested(60),
    ],
    ids=["empty", "long", "a property of that name", "nonsense", "deep"],
)
def test_an_ordinary_schema_passes(schema: Any) -> None:
    require_modest(schema)
