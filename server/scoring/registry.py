"""Scorers and verifiers by name, and the layer that performs `Score` and `Verify` ops with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeVar

from strop.server.engine.base import Engine
from strop.server.layers import engine_of
from strop.server.scoring import checks, confidence, judge, verifiers
from strop.server.scoring.callback import Callback
from strop.server.scoring.programs import Programs
from strop.server.scoring.sandbox import Sandbox
from strop.strategies.kit.capabilities import Capabilities
from strop.strategies.kit.context import Perform
from strop.strategies.kit.errors import BadRequest, ScorerError
from strop.strategies.kit.ops import Op, Result, Score, Scored, Verified, Verify
from strop.strategies.kit.span import Span

Scorer = Callable[[Score, Span, Perform, Capabilities], Awaitable[Scored]]
"""Scores drafts, asking the layer below if it needs a model; the last argument says what the judge's engine can do."""

T = TypeVar("T")

Verifier = Callable[[Verify], Awaitable[Verified]]


async def reward(op: Score, span: Span, below: Perform, can: Capabilities) -> Scored:  # noqa: ARG001
    """What the reward model says: one pass over each draft, no generated token."""
    result = await below(op, span)
    if not isinstance(result, Scored):
        raise ScorerError(f"the reward model answered {type(result).__name__} to a Score")
    return result


SCORERS: Mapping[str, Scorer] = {
    "judge": judge.judge,
    "pairwise": judge.pairwise,
    "logprob": confidence.logprob,
    "certainty": confidence.certainty,
    "prm": reward,
    "orm": reward,
}

VERIFIERS: Mapping[str, Verifier] = {
    "json_object": verifiers.json_object,
    "json_schema": verifiers.json_schema,
    "regex": checks.regex,
    "math_equal": checks.math_equal,
}


def checkers(sandbox: Sandbox | None = None, callbacks: tuple[str, ...] = ()) -> dict[str, Verifier]:
    """Every verifier; programs are refused where there is no sandbox for them, callbacks to addresses not allowed."""
    programs = Programs(sandbox)
    return {
        **VERIFIERS,
        "python_tests": programs.python_tests,
        "program": programs.program,
        "callback": Callback(callbacks),
    }


class Scoring:
    """What can be scored and verified in this process. `owners` are background tasks, such as a `Batched` scorer."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        scorers: Mapping[str, Scorer] = SCORERS,
        checkers: Mapping[str, Verifier] = VERIFIERS,
        owners: tuple[Callable[[], AbstractAsyncContextManager[None]], ...] = (),
    ) -> None:
        self.scorers = dict(scorers)
        self.verifiers = dict(checkers)
        self._engines = engines
        self._owners = owners

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Owner tasks started; ended on leaving."""
        async with AsyncExitStack() as stack:
            for owner in self._owners:
                await stack.enter_async_context(owner())
            yield

    def layer(self, below: Perform) -> Perform:
        """Perform `Score` and `Verify` here, everything else below."""

        async def perform(op: Op, span: Span) -> Result:
            match op:
                case Score():
                    can = engine_of(self._engines, "judge").capabilities
                    return await _named(self.scorers, op.by, "scorer")(op, span, below, can)
                case Verify():
                    return await _named(self.verifiers, op.by, "verifier")(op)
                case _:
                    return await below(op, span)

        return perform


def _named(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise BadRequest(
            f"there is no {what} '{name}'; known: {', '.join(known)}", param="strop.by", code=f"unknown_{what}"
        )
    return known[name]
