"""Who asks. Authentication puts a `Principal` into the request's state; without it everyone is the default tenant."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from strop.server.service import Principal


async def principal(request: Request) -> Principal:
    """The request's principal, as authentication left it in `request.state.principal`."""
    found = getattr(request.state, "principal", None)
    return found if isinstance(found, Principal) else Principal()


Asker = Annotated[Principal, Depends(principal)]
"""Parameter annotation for routes."""
