"""`strop config`: what the settings are, and what they could be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from strop.server.commands.configure import configured
from strop.server.commands.flags import settings_flags
from strop.server.commands.output import emit
from strop.server.settings import Settings

app = typer.Typer(help="Show the settings, or their JSON schema.", no_args_is_help=True, rich_markup_mode=None)
HIDDEN = "**********"


@app.command("show")
@settings_flags
def show(
    model: Annotated[str | None, typer.Argument(help="as in `strop serve`")] = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="also what nobody set: the defaults")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of YAML")] = False,
    *,
    config: Path | None = None,
    given: dict[str, Any],
) -> None:
    """Print the settings that `strop serve` would run with, secrets hidden. Takes the same flags."""
    settings = configured(config, given, model)
    shown = hidden(settings.model_dump(mode="json", exclude_unset=not resolved))
    if as_json:
        emit(shown)
    else:
        typer.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip())


@app.command("schema")
def schema(
    as_json: Annotated[bool, typer.Option("--json", help="JSON, which it is anyway")] = False,  # noqa: ARG001
) -> None:
    """Print the JSON schema of the YAML file."""
    emit(Settings.model_json_schema())


def hidden(value: Any) -> Any:
    """The same tree without hashes of keys (pydantic has hidden the plain secrets already)."""
    if isinstance(value, dict):
        return {name: HIDDEN if name == "sha256" else hidden(item) for name, item in value.items()}
    return [hidden(item) for item in value] if isinstance(value, list) else value
