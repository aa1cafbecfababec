"""Everything that can go wrong, as one tree.

    StropError
    ├── BadRequest            the client asked for something that cannot be done (HTTP 400)
    │   ├── MissingCapability the engine lacks what the strategy or a parameter needs
    │   └── ContextTooLong    prompt and answer do not fit the model's context
    ├── BudgetSpent           a branch has used up its share; only `run` and `Context.map` catch it
    ├── DeadlinePassed        time ran out before the first token
    ├── EngineError           the engine failed
    │   ├── EngineOverloaded  it has no room now; try again later
    │   └── EngineUnavailable it is down or unreachable
    ├── ScorerError           a scorer failed (an unparsable verdict is not a failure: its score is None)
    └── ReplayMismatch        a replayed request asked for something else than was recorded

To add one: subclass the nearest class here, and give it a row in `server/api/errors.py`.
"""

from __future__ import annotations


class StropError(Exception):
    """Root of the tree."""


class BadRequest(StropError):
    """The request is wrong. `param` names the field, `code` is a short stable word for programs."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class MissingCapability(BadRequest):
    """The engine cannot do `capability`; `why` is the engine's own reason."""

    def __init__(self, capability: str, why: str, *, param: str | None = None) -> None:
        super().__init__(
            f"this needs the capability '{capability}', which the engine does not offer: {why}",
            param=param,
            code="unsupported_capability",
        )
        self.capability = capability


class ContextTooLong(BadRequest):
    """`tokens` asked for do not fit into `limit`."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt and the answer need {tokens} tokens, but the model's context holds {limit}",
            param="messages",
            code="context_length_exceeded",
        )


class BudgetSpent(StropError):
    """A branch has nothing left of `what` (tokens, calls or usd)."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the budget of {what} is spent")
        self.what = what


class DeadlinePassed(StropError):
    """The request's `seconds` ran out before there was anything to serve."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the deadline of {seconds:g} seconds passed before the first token")
        self.seconds = seconds


class EngineError(StropError):
    """The engine failed while working on an op."""


class EngineOverloaded(EngineError):
    """No room now. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineUnavailable(EngineError):
    """The engine is down, unreachable, or still starting."""


class ScorerError(StropError):
    """A scorer failed."""


class ReplayMismatch(StropError):
    """The recording and the program disagree; the message names the first differing field."""
