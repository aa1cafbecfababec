"""vLLM's exceptions in strop's words."""

from __future__ import annotations

from strop.strategies.kit.errors import BadRequest, EngineError, EngineOverloaded, EngineUnavailable, StropError


def explained(failure: Exception) -> StropError:
    """The error that the caller gets. Anything unknown is an engine error, never a bad request."""
    from vllm.exceptions import MaxQueuedTokensError, QueueOverflowError, VLLMClientError, VLLMValidationError
    from vllm.v1.engine.exceptions import EngineDeadError

    match failure:
        case StropError():
            return failure
        case QueueOverflowError() | MaxQueuedTokensError():
            return EngineOverloaded("the engine's queue is full")
        case EngineDeadError():
            return EngineUnavailable("the engine died while it worked on this request; it is being started again")
        case VLLMValidationError():
            return BadRequest(str(failure), param=failure.parameter)
        case VLLMClientError() | ValueError():
            return BadRequest(str(failure))
        case _:
            return EngineError(f"vLLM failed: {type(failure).__name__}: {failure}")


def is_death(failure: BaseException) -> bool:
    """Whether this says that the whole engine is gone."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return isinstance(failure, EngineDeadError)
