"""Reading the bill off a response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bill:
    """What one answer took.

    Tokens are counted over every engine call: `prompt_tokens` (of them `cached_tokens` read from a prefix cache) and
    `completion_tokens` (of them `hidden_tokens` generated but not served). `calls` are generations, `seconds` wall
    time, `cost_usd` is None when the server has no price. `stopped` is done, budget, deadline, gone or error;
    `degraded` says why the answer is less than the strategy meant to give.
    """

    strategy: str
    calls: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    hidden_tokens: int
    seconds: float
    cost_usd: float | None
    stopped: str
    degraded: str | None = None
    trace_id: str = ""

    def __str__(self) -> str:
        cost = "no price" if self.cost_usd is None else f"${self.cost_usd:.6f}"
        short = f" ({self.degraded})" if self.degraded else ""
        tokens = f"{self.completion_tokens} tokens generated, {self.hidden_tokens} of them hidden"
        return f"{self.strategy}: {self.calls} calls, {tokens}, {self.seconds:.2f} s, {cost}, {self.stopped}{short}"


def bill(response: Any) -> Bill | None:
    """The bill of a response: an object of the OpenAI SDK, a chunk of a stream, or plain JSON.

    None when there is none, as in every chunk of a stream but the last one with a choice.
    """
    about = _about(response)
    if not isinstance(about, Mapping) or "bill" not in about:
        return None
    paid, total = about["bill"], about["bill"]["total"]
    return Bill(
        strategy=about["strategy"],
        calls=total["calls"],
        prompt_tokens=total["prompt_tokens"],
        cached_tokens=total["cached_tokens"],
        completion_tokens=total["completion_tokens"],
        hidden_tokens=paid["discarded_tokens"],
        seconds=paid["seconds"],
        cost_usd=paid["cost_usd"],
        stopped=about["stopped"],
        degraded=about.get("degraded"),
        trace_id=about["trace_id"],
    )


def _about(response: Any) -> Any:
    """The response's `strop` object."""
    if isinstance(response, Mapping):
        return response.get("strop")
    return (getattr(response, "model_extra", None) or {}).get("strop")
