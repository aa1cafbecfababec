"""`strop replay`: run a logged request again, without a model, and see whether it still does the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import anyio
import typer
from pydantic import ValidationError

from strop.server.commands.output import emit, err, fail
from strop.strategies.kit.errors import StropError
from strop.strategies.kit.events import Outcome
from strop.strategies.kit.trace import Line, from_json


def replay(
    log: Annotated[Path, typer.Argument(help="JSONL file written by `strop serve --trace-log`", dir_okay=False)],
    request: Annotated[str, typer.Argument(help="id of the request: the response's id")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
) -> None:
    """Replay one request of a trace log with today's strategies and prompts, without a model.

    Ends with code 0 when everything is as recorded, and with 1 after naming the first difference by field.
    """
    from strop.strategies import discover
    from strop.strategies.testing import replay as run_again

    lines = _lines(log, request)

    async def again() -> Outcome:
        return await run_again(lines, discover())

    try:
        outcome = anyio.run(again)
    except StropError as differs:
        if as_json:
            emit({"request": request, "same": False, "difference": str(differs)})
            raise typer.Exit(1) from differs
        fail(f"{request} is not what was recorded: {differs}")
    if as_json:
        emit(
            {"request": request, "same": True, "stopped": outcome.stopped, "answers": [a.text for a in outcome.answers]}
        )
        return
    for answer in outcome.answers:
        typer.echo(answer.text)
    err().print(f"{request} is as recorded: {len(lines)} lines, stopped: {outcome.stopped}", markup=False)


def _lines(log: Path, request: str) -> list[Line]:
    """The lines of one request; whatever else stands in the log is not parsed further than its id."""
    try:
        with log.open(encoding="utf-8") as file:
            found = [from_json(line) for line in file if request in line and json.loads(line).get("request") == request]
    except OSError as missing:
        fail(f"cannot read {log}: {missing.strerror}", 2)
    except (ValidationError, ValueError) as broken:
        fail(f"{log} holds a line that is no trace: {broken}")
    if not found:
        fail(f"{log} has no request {request}", 2)
    return found
