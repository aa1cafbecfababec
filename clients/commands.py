"""`strop ask` and `strop compare`: questions to a running server from the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Coroutine
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, NoReturn, TypeVar

import anyio
import typer
from rich.console import Console

from strop.clients.board import Board
from strop.clients.chat import URL, Answer, Listener, ServerError, ask, compare
from strop.clients.refine import Choice, knob

R = TypeVar("R")

Url = Annotated[str, typer.Option("--url", envvar="STROP_URL", help="where the server listens")]
Model = Annotated[str | None, typer.Option("--model", help="model id; none: the first that the server lists")]
ApiKey = Annotated[str | None, typer.Option("--api-key", envvar="STROP_API_KEY", help="the server's API key")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="longest answer, in tokens")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]


def ask_command(
    question: Annotated[str, typer.Argument(help="what to ask")],
    strategy: Annotated[str | None, typer.Option("--strategy", help="strategy or preset; none: the server's")] = None,
    knobs: Annotated[list[str] | None, typer.Option("--knob", help="name=value, for example n=8; repeatable")] = None,
    url: Url = URL,
    model: Model = None,
    api_key: ApiKey = None,
    max_tokens: MaxTokens = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question; the answer is streamed to stdout, progress and the bill go to stderr."""
    try:
        choice = Choice(strategy, dict(knob(text) for text in knobs or ()))
    except ValueError as wrong:
        _fail(str(wrong), 2)
    silent = as_json or not _lively(stderr())
    listener = Listener(
        text=_nothing if as_json else partial(typer.echo, nl=False),
        progress=_nothing if silent else partial(stderr().print, end="", style="dim", markup=False),
    )
    call = ask(question, choice, url=url, model=model, api_key=api_key, listener=listener, **_length(max_tokens))
    answer = _run(call)
    if as_json:
        typer.echo(json.dumps(_plain(answer), ensure_ascii=False, indent=2))
        return
    typer.echo()
    stderr().print(str(answer.bill or "the server sent no bill"), markup=False)


def compare_command(
    question: Annotated[str, typer.Argument(help="what to ask")],
    strategies: Annotated[
        list[str], typer.Option("--strategy", help="strategy, or strategy:knob=value,knob=value; repeatable")
    ],
    url: Url = URL,
    model: Model = None,
    api_key: ApiKey = None,
    max_tokens: MaxTokens = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question with several strategies at once, side by side: answer, tokens, calls, seconds, cost."""
    try:
        choices = [Choice.parse(text) for text in strategies]
    except ValueError as wrong:
        _fail(str(wrong), 2)
    board = Board([choice.label for choice in choices], Console(), live=not as_json and _lively(Console()))
    call = compare(
        question,
        choices,
        url=url,
        model=model,
        api_key=api_key,
        listeners=board.listeners,
        **_length(max_tokens),
    )
    with board:
        results = _run(call)
        board.finish(results)
    if as_json:
        named = zip(choices, results, strict=True)
        typer.echo(json.dumps([{"strategy": c.label, **_plain(r)} for c, r in named], ensure_ascii=False, indent=2))
    elif not board.live:
        for line in board.lines():
            typer.echo(line)
    if any(isinstance(result, ServerError) for result in results):
        raise typer.Exit(1)


def stderr() -> Console:
    """Where progress and bills go."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def _lively(console: Console) -> bool:
    """Whether somebody watches."""
    return console.is_terminal and not os.environ.get("CI")


def _nothing(_: str) -> None:
    return None


def _length(max_tokens: int | None) -> dict[str, Any]:
    return {} if max_tokens is None else {"max_tokens": max_tokens}


def _plain(result: Answer | ServerError) -> dict[str, Any]:
    if isinstance(result, ServerError):
        return {"error": {"message": str(result), "status": result.status, "code": result.code}}
    return asdict(replace(result, progress=()))


def _run(call: Coroutine[Any, Any, R]) -> R:
    async def main() -> R:
        return await call

    try:
        return anyio.run(main)
    except ServerError as failed:
        _fail(str(failed), 1)


def _fail(message: str, code: int) -> NoReturn:
    stderr().print(f"strop: {message}", markup=False)
    raise typer.Exit(code)
