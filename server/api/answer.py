"""Run a request and answer it in one piece. Used by every endpoint that asks the service for drafts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from strop.server.api.errors import Problem, problem_of
from strop.server.api.gone import cancel_when_gone
from strop.server.api.ledger import Ledger
from strop.server.api.mark import mark_of
from strop.server.api.sse import dumps
from strop.server.service import Ask, Service
from strop.strategies.kit.events import Observer, Outcome

Render = Callable[[Outcome, Ledger], Mapping[str, Any]]


async def run(service: Service, ledger: Ledger, observe: Sequence[Observer] = ()) -> Outcome | Problem:
    """The outcome of a request, or what to tell the client instead. Only cancellation leaves as an exception."""
    try:
        return await service.answer(ledger.ask, [ledger, *observe])
    except Exception as failure:  # noqa: BLE001  # boundary: every failure becomes an OpenAI error and a log line
        problem = problem_of(failure)
        return problem.after_work() if ledger.spent else problem


def headers_of(ask: Ask) -> dict[str, str]:
    """What every answer says about itself."""
    return {"x-strop-strategy": ask.selection.strategy.name, "x-strop-trace-id": ask.id}


class WholeAnswer(Response):
    """Runs the request while it watches the connection: a client that leaves stops the engines.

    `render` makes the body of an outcome.
    """

    def __init__(self, service: Service, ask: Ask, render: Render) -> None:
        super().__init__(media_type="application/json")
        self.service = service
        self.ledger = Ledger(ask)
        self.rendered = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mark = mark_of(scope)
        mark.ask = self.ledger.ask
        result: Outcome | Problem | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_when_gone, receive, group.cancel_scope)
            result = await run(self.service, self.ledger)
            group.cancel_scope.cancel()
        headers = headers_of(self.ledger.ask)
        if isinstance(result, Problem):
            mark.code = result.code
            await result.response(headers)(scope, receive, send)
        elif result is not None:
            body = dumps(self.rendered(result, self.ledger))
            await Response(body, headers=headers, media_type="application/json")(scope, receive, send)
