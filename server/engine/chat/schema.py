"""What a JSON schema may ask of the grammar compiler, which has no limits of its own.

llguidance builds one rule per possible array element: `maxItems` of a million costs a gigabyte, of a billion the
process. Everything else in a schema is compiled lazily.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

MAX_BYTES = 128 * 1024
MAX_DEPTH = 64
MAX_ITEMS = 20_000  # sum of all minItems and maxItems: about 0.3 seconds of compilation


def require_modest(schema: dict[str, Any]) -> None:
    """ValueError, with a message for the client, unless the schema is JSON of bearable size."""
    if _depth_exceeds(schema, MAX_DEPTH):
        raise ValueError(f"the JSON schema is nested deeper than {MAX_DEPTH} levels")
    try:
        size = len(json.dumps(schema, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, TypeError) as wrong:
        raise ValueError(f"the JSON schema is not JSON: {wrong}") from wrong
    if size > MAX_BYTES:
        raise ValueError(f"the JSON schema has {size} bytes, at most {MAX_BYTES} are taken")
    items = sum(_items(schema))
    if items > MAX_ITEMS:
        raise ValueError(f"minItems and maxItems of the JSON schema add up to {items}, at most {MAX_ITEMS} are taken")


def _items(value: object) -> Iterator[float]:
    """Every bound on the length of an array."""
    if isinstance(value, dict):
        for name in ("minItems", "maxItems"):
            bound = value.get(name)
            if isinstance(bound, int | float) and bound > 0:
                yield bound
    for child in _children(value):
        yield from _items(child)


def _depth_exceeds(value: object, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [child for node in layer for child in _children(node)]
        if not layer:
            return False
    return True


def _children(node: object) -> list[object]:
    if isinstance(node, dict):
        return list(node.values())
    return list(node) if isinstance(node, list | tuple) else []
