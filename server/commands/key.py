"""`strop key`: make an API key."""

from __future__ import annotations

from secrets import token_urlsafe
from typing import Annotated

import typer
import yaml
from pydantic import ValidationError

from strop.server.commands.output import USAGE, emit, err, fail
from strop.server.settings import Key


def key(
    tenant: Annotated[str, typer.Option(help="who pays: [a-z0-9.-]")] = "default",
    strategy: Annotated[list[str] | None, typer.Option(help="a strategy it may use; none: all; repeatable")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="rate limit, hidden tokens included")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="may use the admin endpoints")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text")] = False,
) -> None:
    """Make a random API key, print it once, and print the entry for `keys` in the YAML file: it holds only a hash."""
    from strop.server.keys import digest

    plain = f"sk-strop-{token_urlsafe(32)}"
    try:
        entry = Key(
            sha256=digest(plain),
            tenant=tenant,
            strategies=tuple(strategy) if strategy else None,
            tokens_per_minute=tokens_per_minute,
            admin=admin,
        ).model_dump(mode="json", exclude_defaults=True)
    except ValidationError as invalid:
        fail("; ".join(f"{error['loc'][0]}: {error['msg']}" for error in invalid.errors()), USAGE)
    if as_json:
        emit({"key": plain, "entry": entry})
        return
    typer.echo(plain)
    err().print("The key is shown only this once. Add its entry to the server's YAML file:")
    typer.echo(yaml.safe_dump({"keys": [entry]}, sort_keys=False).rstrip())
