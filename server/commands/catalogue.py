"""`strop strategies` and `strop version`: what this installation, or a running server, offers."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed
from typing import Annotated, Any

import httpx
import typer
from rich.table import Column, Table

from strop.server.commands.output import emit, fail, out

Card = dict[str, Any]


def strategies(
    url: Annotated[str | None, typer.Option("--url", help="ask this server; none: the installed ones")] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", envvar="STROP_API_KEY", help="the server's key")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything, as one JSON document")] = False,
) -> None:
    """List the strategies with their knobs and costs."""
    cards = _remote(url, api_key) if url else _local()
    if as_json:
        emit(cards)
        return
    table = Table(Column("strategy", no_wrap=True), "what it does", "cost", "knobs", show_lines=True)
    for card in cards:
        knobs = "\n".join(f"{name} = {about.get('default')}" for name, about in _knobs(card).items())
        missing = f"\nnot available: {card['why_not']}" if card.get("why_not") else ""
        first = card["description"].partition(". ")[0].rstrip(".") + "."
        table.add_row(card["name"], first + missing, card["cost"], knobs or "none")
    out().print(table)


def _knobs(card: Card) -> dict[str, Any]:
    found: dict[str, Any] = card["knobs"].get("properties", {})
    return found


def _local() -> list[Card]:
    from strop.strategies import discover

    return [
        {
            "name": strategy.name,
            "description": strategy.description,
            "paper": strategy.paper,
            "cost": strategy.cost,
            "departures": strategy.departures,
            "knobs": strategy.knobs.model_json_schema(),
            "requires": sorted(str(capability) for capability in strategy.requires),
        }
        for strategy in discover().values()
    ]


def _remote(url: str, api_key: str | None) -> list[Card]:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.get(f"{url.rstrip('/')}/v1/strategies", headers=headers, timeout=10)
        response.raise_for_status()
        cards: list[Card] = response.json()["data"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as failed:
        fail(f"no strategies from {url}: {failed}")
    return cards


def version(as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False) -> None:
    """Print the version."""
    if as_json:
        emit({"strop": installed("strop"), "python": platform.python_version()})
    else:
        typer.echo(f"strop {installed('strop')}")
