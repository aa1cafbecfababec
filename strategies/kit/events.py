"""What a run tells the world. Metrics, logs, streams and pages listen; strategies never see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from strop.strategies.kit.budget import Budget
from strop.strategies.kit.ops import Op, Result
from strop.strategies.kit.span import Delta
from strop.strategies.kit.types import Chat, Draft, Usage

Stopped = Literal["done", "budget", "deadline", "gone", "error"]


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins."""

    strategy: str
    knobs: dict[str, Any]
    question: Chat
    budget: Budget = Budget()
    seed: int | None = None
    fence: str = ""
    choices: int = 1
    kind: Literal["started"] = "started"


@dataclass(frozen=True, slots=True)
class OpStarted:
    """An op leaves for the engine."""

    key: str
    op: Op
    kind: Literal["op_started"] = "op_started"


@dataclass(frozen=True, slots=True)
class OpDone:
    """An op came back. Exactly one of `result` and `error` is set; a cancelled op has error "cancelled".

    `at` and `seconds` are wall time: start since the run began, and duration.
    """

    key: str
    op: Op
    result: Result | None = None
    error: str | None = None
    usage: Usage = Usage()
    at: float = 0.0
    seconds: float = 0.0
    kind: Literal["op"] = "op"


@dataclass(frozen=True, slots=True)
class Kept:
    """The best draft so far changed."""

    key: str
    draft: Draft
    score: float | None = None
    kind: Literal["kept"] = "kept"


@dataclass(frozen=True, slots=True)
class Committed:
    """Words of the answer that will not change any more."""

    delta: Delta
    kind: Literal["committed"] = "committed"


@dataclass(frozen=True, slots=True)
class Noted:
    """Facts a strategy wants in the trace, such as the chosen index and why."""

    key: str
    facts: dict[str, Any] = field(default_factory=dict)
    kind: Literal["noted"] = "noted"


@dataclass(frozen=True, slots=True)
class Bill:
    """Everything the engine did for one request.

    `phases` splits `total` by tag. `discarded` counts generated tokens that are not in the served answers.
    `usd` is None when a model without a known price was used.
    """

    total: Usage = Usage()
    phases: dict[str, Usage] = field(default_factory=dict)
    discarded: int = 0
    seconds: float = 0.0
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `answers` are best first; none only when the client left or `run` raised (see `error`).

    `degraded` tells when the answer is less than the strategy meant to give: "kept" (the best so far),
    "unselected" (a finished draft that was never compared) or "partial" (an unfinished draft).
    """

    answers: tuple[Draft, ...]
    stopped: Stopped
    degraded: str | None = None
    error: str | None = None
    bill: Bill = Bill()


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over."""

    outcome: Outcome
    kind: Literal["finished"] = "finished"


Event = Started | OpStarted | OpDone | Kept | Committed | Noted | Finished
Observer = Callable[[Event], None]
