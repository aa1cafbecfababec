"""How commands speak: results to stdout, everything else to stderr, no colours where nobody sees them."""

from __future__ import annotations

import json
import os
from typing import Any, NoReturn

import typer
from rich.console import Console

USAGE = 2
FAILED = 1


def out() -> Console:
    """Where results go. Colours only on a terminal, and never with NO_COLOR or in CI."""
    return Console(highlight=False, soft_wrap=True, no_color=_plain())


def err() -> Console:
    """Where progress and complaints go."""
    return Console(stderr=True, highlight=False, soft_wrap=True, no_color=_plain())


def _plain() -> bool:
    return bool(os.environ.get("NO_COLOR") or os.environ.get("CI"))


def emit(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Say what is wrong and end: code 1 when something failed, 2 when the command or the settings are wrong."""
    err().print(f"strop: {message}", markup=False)
    raise typer.Exit(code)
