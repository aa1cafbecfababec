"""Command-line flags made from the fields of `Settings`, so a new setting is a new flag with the same words."""

from __future__ import annotations

import functools
import inspect
import json
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from strop.server.settings import Part, Settings

RENAMED = {
    ("limits", "tokens"): "max-tokens-per-request",
    ("limits", "calls"): "max-calls-per-request",
    ("limits", "seconds"): "max-request-seconds",
    ("limits", "usd"): "max-usd-per-request",
    ("upstream", "urls"): "upstream",
    ("upstream", "api_key"): "upstream-api-key",
    ("upstream", "timeout"): "upstream-timeout",
    ("presets",): "preset",
}
"""Flags whose name is not simply the name of the setting."""

FILE_ONLY = frozenset({("keys",)})
"""Settings too large for a command line."""

Path_ = tuple[str, ...]

UNSAID = {
    ("dtype",): "precision of the weights",
    ("upstream", "urls"): "OpenAI-compatible server behind the remote engine",
    ("upstream", "api_key"): "key for the upstream servers",
    ("host",): "address to listen on",
    ("port",): "port to listen on; 0: any free one",
    ("root_path",): "path prefix that a proxy in front strips",
    ("uvicorn_log_level",): "critical, error, warning, info, debug or trace; debug and trace log every request",
    ("ssl_keyfile",): "TLS key",
    ("ssl_certfile",): "TLS certificate; the server speaks https then",
    ("max_concurrent_requests",): "requests worked on at once",
    ("max_queued_requests",): "requests that may wait; further ones get 503",
    ("max_body_bytes",): "largest request body",
    ("max_messages",): "most messages in one request",
}
"""Descriptions of settings whose name says it almost all."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: the setting it sets, and how typer shall read it."""

    path: Path_
    name: str
    type: Any
    help: str

    @property
    def argument(self) -> str:
        """The name of the command's parameter."""
        return "_".join(self.path)

    def parameter(self) -> inspect.Parameter:
        """The flag as a keyword parameter of a command."""
        negative = f"/--no-{self.name}" if self.type is bool else ""
        option = typer.Option(f"--{self.name}{negative}", help=self.help, show_default=False)
        return inspect.Parameter(
            self.argument, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[self.type | None, option]
        )


def flags() -> dict[str, Flag]:
    """Parameter name to flag, for every setting that has one (`model` is an argument)."""
    found = [
        flag
        for path, field in fields()
        if path not in FILE_ONLY and path != ("model",)
        for flag in [_flag(path, field)]
    ]
    return {flag.argument: flag for flag in found}


def fields(model: type[Any] = Settings, above: Path_ = ()) -> list[tuple[Path_, FieldInfo]]:
    """Every setting with its path, groups opened."""
    found: list[tuple[Path_, FieldInfo]] = []
    for name, field in model.model_fields.items():
        group = _part(field.annotation)
        found += fields(group, (*above, name)) if group else [((*above, name), field)]
    return found


def _part(annotation: Any) -> type[Part] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, Part) else None


def _flag(path: Path_, field: FieldInfo) -> Flag:
    plain = _plain(field.annotation)
    kind = _kind(plain)
    default = field.get_default(call_default_factory=True)
    shown = "" if default in (None, "", (), False) or isinstance(default, dict | SecretStr) else f"default {default}"
    name = RENAMED.get(path, path[-1].replace("_", "-"))
    return Flag(path, name, kind, "; ".join(word for word in (describe(path, field), _hint(plain), shown) if word))


def describe(path: Path_, field: FieldInfo) -> str:
    """What a setting is for."""
    return field.description or UNSAID.get(path, "")


def _plain(annotation: Any) -> Any:
    """The annotation without its None."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(arg for arg in get_args(annotation) if arg is not type(None))
    return annotation


def _kind(plain: Any) -> Any:
    """The type typer reads: lists for tuples, text for what is parsed later."""
    if get_origin(plain) is tuple:
        return list[str]
    return plain if plain in (int, float, bool, Path) else str


def _hint(plain: Any) -> str:
    if get_origin(plain) is Literal:
        return "one of " + ", ".join(get_args(plain))
    if get_origin(plain) is tuple:
        return "repeatable"
    return ""


Command = Callable[..., None]


def settings_flags(command: Command) -> Command:
    """Give a command every flag of `Settings` and `--config`.

    The command is called with `given`, the flags that were set (parameter name to value), and `config`.
    """
    known = flags()
    own = [
        p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in ("given", "config")
    ]
    config = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, typer.Option("--config", help="YAML file with settings", dir_okay=False)],
    )

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        given = {name: values.pop(name) for name in known}
        command(**values, given={name: value for name, value in given.items() if value not in (None, [])})

    parameters = [*own, config, *(_special(flag).parameter() for flag in known.values())]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _special(flag: Flag) -> Flag:
    """Flags whose values are more than one word."""
    shapes: dict[Path_, tuple[Any, str]] = {
        ("presets",): (
            list[str],
            'name=JSON, for example fast=\'{"strategy":"best_of_n","knobs":{"n":4}}\'; repeatable',
        ),
        ("effort_map",): (str, "JSON object, added to the default one"),
        ("prices",): (Path, "YAML file"),
    }
    if flag.path not in shapes:
        return flag
    kind, words = shapes[flag.path]
    return Flag(flag.path, flag.name, kind, f"{flag.help}: {words}")


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as the nested mapping that `Settings` takes."""
    tree: dict[str, Any] = {}
    known = flags()
    for name, value in given.items():
        *groups, last = known[name].path
        leaf = tree
        for group in groups:
            leaf = leaf.setdefault(group, {})
        leaf[last] = _list(value) if isinstance(value, list) else value
    return tree


def _list(values: list[str]) -> list[str]:
    """Repeated flags, or one JSON list as vLLM takes it."""
    if len(values) == 1 and values[0].startswith("["):
        return [str(item) for item in json.loads(values[0])]
    return values
