"""The `strop` object, both ways: what a client may ask of a strategy, and what it learns about the run."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict

from strop.server.api.body import flaw
from strop.server.api.wire.invalid import Wire, whole
from strop.strategies.kit.budget import Budget
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.events import Bill
from strop.strategies.kit.knobs import RESERVED
from strop.strategies.kit.types import Usage

Limit = Annotated[int, Field(ge=1, le=2**53), BeforeValidator(whole)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


class StropBudget(Wire):
    """What this request may spend; never more than the server's own limits."""

    model_config = ConfigDict(extra="forbid")

    tokens: Limit | None = Field(None, description="generated tokens, hidden ones included")
    calls: Limit | None = Field(None, description="generations, one per draft")
    seconds: float | None = Field(None, gt=0, description="wall time from the start of the strategy")
    usd: float | None = Field(None, gt=0, description="money at the server's price table")

    def budget(self) -> Budget:
        """The kit's budget."""
        return Budget(self.tokens, self.calls, self.seconds, self.usd)


class StropOptions(Wire):
    """The request's `strop` object. Every key that is not listed here is a knob of the chosen strategy."""

    model_config = ConfigDict(extra="allow")

    strategy: Name | None = Field(None, description="name of a strategy, or of a preset")
    preset: Name | None = Field(None, description="name of a preset")
    budget: StropBudget | None = None
    trace: bool | None = Field(None, description="return the whole trace in the response")
    stream_trace: bool | None = Field(None, description="stream machine-readable progress")

    @property
    def knobs(self) -> dict[str, Any]:
        """Knobs as sent, not yet checked against the strategy."""
        return self.model_extra or {}


def checked(asked: StropOptions) -> StropOptions:
    """Refuse what pydantic cannot see: reserved words, knob values that no strategy can take."""
    for name, value in asked.knobs.items():
        if name in RESERVED:
            raise BadRequest(
                f"strop.{name} is reserved and not supported by this version",
                param=f"strop.{name}",
                code="unsupported_parameter",
            )
        if why := flaw(value):
            raise BadRequest(f"strop.{name} {why}", param=f"strop.{name}", code="invalid_knob")
    if asked.strategy and asked.preset:
        raise BadRequest("give strop.strategy or strop.preset, not both", param="strop.preset")
    return asked


class WireUsage(TypedDict):
    """What engines did: prompt tokens of every call, tokens generated, tokens inserted, drafts, engine seconds."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    injected_tokens: int
    calls: int
    seconds: float


class WireBill(TypedDict):
    """The full bill of one request. `phases` splits `total` by purpose; `seconds` is wall time."""

    total: WireUsage
    phases: dict[str, WireUsage]
    discarded_tokens: int
    seconds: float
    cost_usd: float | None


class StropAnswer(TypedDict):
    """The response's `strop` object."""

    strategy: str
    knobs: dict[str, Any]
    selected_by: str
    preset: NotRequired[str]
    stopped: str
    degraded: NotRequired[str]
    trace_id: str
    bill: WireBill
    trace: NotRequired[list[dict[str, Any]]]


def wire_usage(usage: Usage) -> WireUsage:
    """One line of the bill."""
    return {
        "prompt_tokens": usage.prompt,
        "cached_tokens": usage.cached,
        "completion_tokens": usage.completion,
        "injected_tokens": usage.injected,
        "calls": usage.calls,
        "seconds": round(usage.seconds, 6),
    }


def wire_bill(bill: Bill) -> WireBill:
    """The bill as clients see it."""
    return {
        "total": wire_usage(bill.total),
        "phases": {tag: wire_usage(usage) for tag, usage in bill.phases.items()},
        "discarded_tokens": bill.discarded,
        "seconds": round(bill.seconds, 6),
        "cost_usd": bill.usd,
    }
