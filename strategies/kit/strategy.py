"""A strategy as the catalogue shows it: the function, its knobs, and what its docstring says about it."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from inspect import cleandoc
from types import MappingProxyType
from typing import Any, get_type_hints

from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.knobs import Knobs, check, knobs_of
from strop.strategies.kit.types import Draft

Body = Callable[..., Awaitable[Draft | list[Draft]]]

SECTIONS = ("Paper", "Cost", "Departures", "Requires")


@dataclass(frozen=True)
class Strategy:
    """One entry of the catalogue.

    `ranked` strategies return several drafts, best first, so they can fill `n` choices from one run; the others
    are run once per choice.
    """

    name: str
    body: Body
    knobs: type[Knobs]
    description: str
    paper: str
    cost: str
    departures: str
    requires: frozenset[Capability]
    ranked: bool

    def check(self, values: dict[str, Any]) -> dict[str, Any]:
        """Validated knobs; raises `BadRequest`."""
        return check(self.knobs, values, self.name)


def strategy_of(body: Body) -> Strategy:
    """Read a strategy off its function. The docstring of the module (or of the function) has the sections

    `Paper:`, `Cost:`, `Departures:` and, where an engine must offer something special, `Requires:` (a comma list of
    capabilities); what comes before them is the description. A missing section is an error.
    """
    doc = cleandoc(body.__doc__ or sys.modules[body.__module__].__doc__ or "")
    sections = _sections(doc)
    missing = [name for name in SECTIONS[:3] if not sections.get(name)]
    if missing:
        raise TypeError(f"the docstring of strategy '{body.__name__}' lacks {', '.join(missing)}")
    requires = frozenset(Capability(word.strip()) for word in sections.get("Requires", "").split(",") if word.strip())
    return Strategy(
        name=body.__name__,
        body=body,
        knobs=knobs_of(body),
        description=sections[""],
        paper=sections["Paper"],
        cost=sections["Cost"],
        departures=sections["Departures"],
        requires=requires,
        ranked=get_type_hints(body).get("return") != Draft,
    )


def _sections(doc: str) -> dict[str, str]:
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", doc, flags=re.MULTILINE)
    named = zip(["", *parts[1::2]], [parts[0], *parts[2::2]], strict=True)
    return {name: " ".join(text.split()) for name, text in named}


def catalogue(*bodies: Body) -> Mapping[str, Strategy]:
    """Name to strategy, in the given order."""
    return MappingProxyType({body.__name__: strategy_of(body) for body in bodies})


def find(known: Mapping[str, Strategy], name: str) -> Strategy:
    """The strategy called `name`; a `BadRequest` listing the known ones otherwise."""
    if name not in known:
        raise BadRequest(
            f"there is no strategy '{name}'; known: {', '.join(known)}",
            param="strop.strategy",
            code="strategy_not_found",
        )
    return known[name]
