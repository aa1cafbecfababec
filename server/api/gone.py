"""When the client hangs up, everything done on its behalf stops."""

from __future__ import annotations

import anyio
from starlette.types import Receive


async def cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel `scope` as soon as the server reports that the client has left. The body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
