"""The trace: everything one request did, one JSON object per event. Log lines and test cassettes are this format."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter

from strop.strategies.kit.events import Event, Finished, Kept, Noted, OpDone, Started
from strop.strategies.kit.ops import Op, Result

Line = Annotated[Started | OpDone | Kept | Noted | Finished, Field(discriminator="kind")]
"""Events worth keeping: what was asked, every op with its result and cost, what was kept and noted, the outcome."""

LINE: TypeAdapter[Line] = TypeAdapter(Line)
OP: TypeAdapter[Op] = TypeAdapter(Annotated[Op, Field(discriminator="kind")])
RESULT: TypeAdapter[Result] = TypeAdapter(Annotated[Result, Field(discriminator="kind")])


class Trace:
    """An observer that collects the lines of one run in order."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started | OpDone | Kept | Noted | Finished):
            self.lines.append(event)

    def dump(self) -> list[dict[str, Any]]:
        """The lines as JSON-ready objects."""
        return [LINE.dump_python(line, mode="json", exclude_defaults=False) for line in self.lines]


def to_json(line: Line, **extra: Any) -> str:
    """One line of a log; `extra` (request id, time, ...) is put beside the event's own fields."""
    return json.dumps(extra | LINE.dump_python(line, mode="json"), ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> Line:
    """The event of one log line; fields that do not belong to it are ignored."""
    return LINE.validate_json(text)


def read(lines: Iterable[str]) -> list[Line]:
    """The events of a log or cassette; blank lines are skipped."""
    return [from_json(line) for line in lines if line.strip()]


class Difference(NamedTuple):
    """Where two ops differ: the path of the first differing field, and both values."""

    field: str
    recorded: Any
    asked: Any


def difference(recorded: Op, asked: Op) -> Difference | None:
    """The first field in which two ops differ, or None."""
    return _differ("", OP.dump_python(recorded, mode="json"), OP.dump_python(asked, mode="json"))


def _differ(path: str, a: Any, b: Any) -> Difference | None:
    if isinstance(a, dict) and isinstance(b, dict):
        keys: Iterable[Any] = dict.fromkeys([*a, *b])
        pairs = [(f"{path}.{key}" if path else str(key), a.get(key), b.get(key)) for key in keys]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(f"{path}[{i}]", x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if a == b else Difference(path, a, b)
    return next((found for p, x, y in pairs if (found := _differ(p, x, y))), None)
