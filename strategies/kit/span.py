"""Where in the strategy's program we are: keys for traces, replay and seeds, and the receipt of one op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from strop.strategies.kit.budget import Purse
from strop.strategies.kit.types import Draft, Tokens, Usage


@dataclass(frozen=True, slots=True)
class Delta:
    """New words of draft `index`, as the engine decodes them."""

    text: str = ""
    index: int = 0
    reasoning: str = ""
    tokens: Tokens = Tokens()


Live = Callable[[Delta], None]


def _nothing() -> Sequence[Draft]:
    return ()


@dataclass(slots=True)
class Receipt:
    """What an op has cost so far. The engine writes it while it works, so it is right even when the op is cancelled.

    `partials` gives the unfinished drafts as they stand; the run serves the longest when it has nothing better.
    """

    own: Usage = Usage()
    partials: Callable[[], Sequence[Draft]] = _nothing
    children: list[Receipt] = field(default_factory=list)

    @property
    def usage(self) -> Usage:
        """Own usage plus that of every op performed on this op's behalf."""
        return sum((child.usage for child in self.children), self.own)


@dataclass(slots=True)
class Span:
    """One op's place. `key` depends on the program, never on timing. `live` wants words as they are decoded."""

    key: str
    seed: int | None = None
    live: Live | None = None
    receipt: Receipt = field(default_factory=Receipt)

    def child(self, name: str) -> Span:
        """The place of an op performed on behalf of this one, such as a judge's question; it adds to the receipt."""
        key = f"{self.key}/{name}"
        span = Span(key, None if self.seed is None else mix(self.seed, name))
        self.receipt.children.append(span.receipt)
        return span


class Branch:
    """One sequential piece of a strategy: the root, or one item of a `map`. Numbers its ops in program order."""

    def __init__(self, path: str, purse: Purse, order: tuple[int, ...] = ()) -> None:
        self.path = path
        self.purse = purse
        self.order = order
        self._count = 0

    def next(self) -> int:
        """The number of the next op or map in this branch, from 1."""
        self._count += 1
        return self._count

    def children(self, name: str, count: int) -> list[Branch]:
        """Branches of a `map` over `count` items, with equal shares of this branch's purse."""
        number = self.next()
        return [
            Branch(f"{self.path}/{number}.{name}[{i}]", purse, (*self.order, number, i))
            for i, purse in enumerate(self.purse.shares(count))
        ]


def mix(seed: int, key: str) -> int:
    """A 31-bit seed for one op, from the request's seed and the op's key: equal questions get unequal samples."""
    return int.from_bytes(blake2b(f"{seed}:{key}".encode(), digest_size=4).digest(), "big") & 0x7FFFFFFF
