"""The engine protocol: where tokens come from.

An engine is the innermost `async (op, span) -> result` layer. It

* performs `Generate` and `Logprobs` ops (other ops are handled above it, see `server/scoring`);
* keeps `span.receipt.own` and `span.receipt.partials` up to date while it works, so that a cancelled op is billed;
* calls `span.live(delta)` with new words as they are decoded, when `span.live` is set: the texts of all deltas of a
  draft, concatenated, are exactly what the op adds to that draft's text (a prefix is not told again). Where the words
  could still turn out to be a tool call, an engine may tell none of them;
* stops all work of an op within one decoding step when the caller is cancelled;
* raises only errors of `strop.strategies.kit.errors`; whatever a client sends, the engine stays alive;
* never returns a draft that ignores a parameter: what it cannot honour is missing from `capabilities`, and the
  `checked` layer refuses the request before any work is done.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from strop.strategies.kit.capabilities import Capabilities
from strop.strategies.kit.ops import Op, Result
from strop.strategies.kit.span import Span


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model an engine serves. `context` is in tokens; None when unknown."""

    name: str
    context: int | None = None
    created: int = 0
    owned_by: str = "strop"


@dataclass(frozen=True, slots=True)
class Health:
    """Whether requests would succeed now; `detail` says why not."""

    ready: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Counters:
    """Everything an engine ever counted, for the bill identity test and `/metrics`."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    calls: int = 0
    running: int = 0
    waiting: int = 0


class Engine(Protocol):
    """See the module docstring for what an implementation promises."""

    @property
    def model(self) -> ModelInfo:
        """The served model; valid once running."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it offers; valid once running."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Load on entering, free everything on leaving. An engine may be entered once."""
        ...

    async def perform(self, op: Op, span: Span) -> Result:
        """Do one op."""
        ...

    def health(self) -> Health:
        """Cheap; called by probes."""
        ...

    def counters(self) -> Counters:
        """Totals since the start."""
        ...
