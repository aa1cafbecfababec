"""Choosing a strategy: the `strop` object of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai import OpenAI


def refine(strategy: str | None = None, *, budget: Mapping[str, float] | None = None, **knobs: Any) -> dict[str, Any]:
    """The `extra_body` of an OpenAI call that asks for a strategy (or preset) with these knobs.

    `budget` may hold tokens, calls, seconds and usd. The server checks names and values; unknown ones are a 400.
    """
    chosen: dict[str, Any] = {} if strategy is None else {"strategy": strategy}
    if budget:
        chosen["budget"] = dict(budget)
    return {"strop": chosen | knobs}


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy with knobs, as written on a command line: `best_of_n` or `best_of_n:n=8,judge=true`."""

    strategy: str | None = None
    knobs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Read `name:knob=value,knob=value`; raises `ValueError` for a knob without a value."""
        name, _, rest = text.partition(":")
        return cls(name, dict(knob(part) for part in rest.split(",") if part))

    @property
    def label(self) -> str:
        """How it is written."""
        knobs = ",".join(f"{name}={value}" for name, value in self.knobs.items())
        return (self.strategy or "server default") + (f":{knobs}" if knobs else "")


def knob(text: str) -> tuple[str, Any]:
    """`n=8` as ("n", 8): values are JSON where they can be, else text. Raises `ValueError` without a `=`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"a knob is written name=value, not '{text}'")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def openai_client(
    url: str = "http://127.0.0.1:8000", *, strategy: str | None = None, api_key: str = "none", **options: Any
) -> OpenAI:
    """An OpenAI SDK client of this server. With `strategy`, every chat call of the client uses it.

    Raises `ImportError` with an advice when the package `openai` is not installed.
    """
    try:
        from openai import OpenAI
    except ImportError as missing:
        raise ImportError("this needs the OpenAI SDK: pip install openai") from missing
    path = "/v1" if strategy is None else f"/v1/strategies/{strategy}"
    return OpenAI(base_url=url.rstrip("/") + path, api_key=api_key, **options)
