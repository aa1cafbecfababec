"""Run a request and answer it in one piece. Used by every endpoint that asks the service for drafts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from strop.server.api.errors import Problem, problem_of
from strop.server.api.gone import cancel_when_gone
from strop.server.api.ledger import Usage
from strop.server.api.mark import mark_of
from strop.server.api.sse import dumps
from strop.server.api.wire.strop import StropAnswer
from strop.server.service import Ask, Service
from strop.strategies.kit.events import Observer, Outcome

Render = Callable[[Outcome], Mapping[str, Any]]


class Account(Protocol):
    """What is asked, how it is run, and what it cost: a `Ledger`, or a `Batch` of them."""

    ask: Ask

    @property
    def spent(self) -> bool:
        """Whether an engine generated anything: a client should not pay for that twice."""
        ...

    async def answer(self, service: Service, observe: Sequence[Observer] = ()) -> Outcome:
        """Run it, observed by the account itself and by others. Raises what `Service.answer` raises."""
        ...

    def usage(self, outcome: Outcome) -> Usage:
        """The final usage block."""
        ...

    def usage_so_far(self, live: int) -> Usage:
        """A running usage block; `live` tokens of an unfinished op were already streamed."""
        ...

    def strop(self, outcome: Outcome) -> StropAnswer:
        """The response's `strop` object."""
        ...


async def run(service: Service, account: Account, observe: Sequence[Observer] = ()) -> Outcome | Problem:
    """The outcome of a request, or what to tell the client instead. Only cancellation leaves as an exception."""
    try:
        return await account.answer(service, observe)
    except Exception as failure:  # noqa: BLE001  # boundary: every failure becomes an OpenAI error and a log line
        problem = problem_of(failure)
        return problem.after_work() if account.spent else problem


def headers_of(ask: Ask) -> dict[str, str]:
    """What every answer says about itself."""
    return {"x-strop-strategy": ask.selection.strategy.name, "x-strop-trace-id": ask.id}


class WholeAnswer(Response):
    """Runs the request while it watches the connection: a client that leaves stops the engines.

    `render` makes the body of an outcome.
    """

    def __init__(self, service: Service, account: Account, render: Render) -> None:
        super().__init__(media_type="application/json")
        self.service = service
        self.account = account
        self.rendered = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mark = mark_of(scope)
        mark.ask = self.account.ask
        result: Outcome | Problem | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_when_gone, receive, group.cancel_scope)
            result = await run(self.service, self.account)
            group.cancel_scope.cancel()
        headers = headers_of(self.account.ask)
        if isinstance(result, Problem):
            mark.code = result.code
            await result.response(headers)(scope, receive, send)
        elif result is not None:
            body = dumps(self.rendered(result))
            await Response(body, headers=headers, media_type="application/json")(scope, receive, send)
