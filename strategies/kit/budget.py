"""Budgets: what one request may spend, shared out so that running dry never depends on timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from strop.strategies.kit.errors import BudgetSpent
from strop.strategies.kit.ops import Generate, Op, Verify
from strop.strategies.kit.types import Usage

Price = Callable[[Usage, str], float | None]
"""Cost in US dollars of a usage by a model role ("policy", "judge", ...); None when no price is known."""


def no_price(usage: Usage, role: str) -> float | None:  # noqa: ARG001
    """The price of a model nobody has priced."""
    return None


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one request; None means no limit.

    `tokens` counts generated tokens, hidden ones included; `calls` counts generations, one per draft;
    `seconds` is wall time from the start of the strategy; `usd` is money at the server's price table.
    """

    tokens: int | None = None
    calls: int | None = None
    seconds: float | None = None
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """An op cut to what the purse allows; `clipped` tells whether anything was cut."""

    op: Op
    clipped: bool = False


class Purse:
    """What one branch of a strategy may still spend. Children get equal shares; the parent pays what they spent."""

    def __init__(
        self, tokens: int | None = None, calls: int | None = None, usd: float | None = None, price: Price = no_price
    ) -> None:
        self.tokens = tokens
        self.calls = calls
        self.usd = usd
        self.price = price
        self.spent = Usage()
        self.spent_usd = 0.0

    @classmethod
    def of(cls, budget: Budget, price: Price = no_price) -> Purse:
        """The purse a request starts with."""
        return cls(budget.tokens, budget.calls, budget.usd, price)

    def left(self) -> tuple[int | None, int | None, float | None]:
        """(tokens, calls, usd) still unspent; None where there is no limit; never negative."""
        tokens = None if self.tokens is None else max(0, self.tokens - self.spent.completion - self.spent.injected)
        calls = None if self.calls is None else max(0, self.calls - self.spent.calls)
        usd = None if self.usd is None else max(0.0, self.usd - self.spent_usd)
        return tokens, calls, usd

    def shares(self, branches: int) -> list[Purse]:
        """Equal shares of what is left; what does not divide goes to the first branches."""
        tokens, calls, usd = self.left()
        return [
            Purse(
                None if tokens is None else tokens // branches + (i < tokens % branches),
                None if calls is None else calls // branches + (i < calls % branches),
                None if usd is None else usd / branches,
                self.price,
            )
            for i in range(branches)
        ]

    def absorb(self, children: list[Purse]) -> None:
        """Pay for what the children spent."""
        for child in children:
            self.spent += child.spent
            self.spent_usd += child.spent_usd

    def charge(self, usage: Usage, role: str) -> None:
        """Pay for one op."""
        self.spent += usage
        self.spent_usd += self.price(usage, role) or 0.0

    def admit(self, op: Op) -> Admitted:
        """The op, cut to what is left; raises `BudgetSpent` when there is nothing left to work with.

        Verifiers are programs: they cost nothing, so a run that has spent everything can still check its drafts.
        """
        if isinstance(op, Verify):
            return Admitted(op)
        tokens, calls, usd = self.left()
        if tokens == 0 or calls == 0 or usd == 0.0:
            raise BudgetSpent("tokens" if tokens == 0 else "calls" if calls == 0 else "usd")
        return _clip(op, tokens, calls) if isinstance(op, Generate) else Admitted(op)


def _clip(op: Generate, tokens: int | None, calls: int | None) -> Admitted:
    n = min(op.n, calls or op.n, tokens or op.n)
    asked = op.chat.sampling.max_tokens
    if tokens is None:
        return Admitted(replace(op, n=n), n < op.n)
    allowed = tokens // n
    if asked is not None and asked <= allowed:
        return Admitted(replace(op, n=n), n < op.n)
    sampling = replace(op.chat.sampling, max_tokens=allowed, min_tokens=min(op.chat.sampling.min_tokens, allowed))
    return Admitted(replace(op, n=n, chat=replace(op.chat, sampling=sampling)), clipped=True)
