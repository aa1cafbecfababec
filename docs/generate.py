"""Writes the tables of `docs/metrics.md`, `docs/cli.md` and `docs/configuration.md` from the code.

python docs/generate.py           rewrite what stands between the markers `<!-- begin x -->` and `<!-- end -->`
python docs/generate.py --check   change nothing; code 1 when a page is out of date
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, SecretStr

from strop.server.cli import app
from strop.server.commands.flags import FILE_ONLY, describe, fields, flags
from strop.server.observe.metrics import Metrics
from strop.server.settings import DEFAULT_PRESETS, Key, ModelPrice, Preset, Settings

DOCS = Path(__file__).parent
BLOCK = re.compile(r"(<!-- begin (?P<name>[^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def metrics() -> str:
    """Every series: name, type, labels, meaning."""
    registry = CollectorRegistry()
    Metrics(registry)
    rows = []
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append((f"`{name}`", family.type, _labels(registry, family.name), family.documentation))
    return _table(("series", "type", "labels", "meaning"), rows)


def _labels(registry: CollectorRegistry, name: str) -> str:
    """Labels of a series; those read at scrape time tell them through their samples' families."""
    names = getattr(registry, "_names_to_collectors", {})
    collector = names.get(name) or names.get(f"{name}_total")
    labels = getattr(collector, "_labelnames", None)
    if labels is None:
        labels = ("role",) if name.startswith("strop_engine_") else ("sink", "result") if "log_records" in name else ()
    return ", ".join(f"`{label}`" for label in labels) or "none"


def command(path: str) -> str:
    """The flags and arguments of one sub-command."""
    found = typer.main.get_command(app)
    for word in path.split()[1:]:
        found = found.commands[word]  # type: ignore[attr-defined]
    rows = []
    for param in found.params:
        if param.param_type_name == "option" and "--help" not in param.opts:
            rows.append((f"`{max(param.opts, key=len)}`", _escape(getattr(param, "help", "") or "")))
        elif param.param_type_name == "argument":
            rows.append((f"{param.name} (argument)", _escape(getattr(param, "help", "") or "")))
    return _table(("flag", "meaning"), rows)


def settings() -> str:
    """Every setting: YAML key, default, environment variable, flag, meaning."""
    named = {flag.path: flag.name for flag in flags().values()}
    rows = []
    for path, field in fields():
        flag = f"`--{named[path]}`" if path in named else ("the argument" if path == ("model",) else "none")
        meaning = f"{describe(path, field)}{'; only in the file' if path in FILE_ONLY else ''}"
        variable = "`STROP_" + "__".join(path).upper() + "`"
        rows.append((f"`{'.'.join(path)}`", _default(field), variable, flag, _escape(meaning)))
    return _table(("key", "default", "environment", "flag", "meaning"), rows)


def group(model: type[BaseModel]) -> Callable[[], str]:
    """The fields of an entry in a list or mapping."""

    def table() -> str:
        rows = [
            (f"`{name}`", "required" if field.is_required() else _default(field), _escape(field.description or ""))
            for name, field in model.model_fields.items()
        ]
        return _table(("key", "default", "meaning"), rows)

    return table


def presets() -> str:
    """The presets of a server that names none."""
    rows = [
        (f"`{name}`", f"`{preset.strategy}`", f"`{json.dumps(preset.knobs)}`", preset.description)
        for name, preset in DEFAULT_PRESETS.items()
    ]
    return _table(("preset", "strategy", "knobs", "description"), rows)


def efforts() -> str:
    """What a reasoning_effort means by default; efforts that are missing mean the default strategy."""
    mapping = Settings.model_fields["effort_map"].get_default(call_default_factory=True)
    return _table(("effort", "preset or strategy"), [(f"`{effort}`", f"`{name}`") for effort, name in mapping.items()])


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, SecretStr) or value in ("", (), {}):
        return "none"
    return "see below" if isinstance(value, dict) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


BLOCKS: dict[str, Callable[[], str]] = {
    "metrics": metrics,
    "settings": settings,
    "presets": presets,
    "efforts": efforts,
    "preset": group(Preset),
    "price": group(ModelPrice),
    "key": group(Key),
}


def rendered(text: str) -> str:
    """A page with its tables made anew."""

    def fresh(found: re.Match[str]) -> str:
        name = found["name"]
        table = command(name) if name.startswith("strop ") else BLOCKS[name]()
        return f"{found[1]}\n{table}\n{found[3]}"

    return BLOCK.sub(fresh, text)


def stale() -> Iterator[tuple[Path, str]]:
    """Pages that are not what the code says, with what they should be."""
    for path in (DOCS / name for name in ("metrics.md", "cli.md", "configuration.md")):
        text = path.read_text()
        if (wanted := rendered(text)) != text:
            yield path, wanted


def main() -> int:
    """0 when every page was up to date, or is now."""
    found = list(stale())
    if "--check" in sys.argv:
        for path, _ in found:
            sys.stderr.write(f"{path.name} is out of date; run python docs/generate.py\n")
        return int(bool(found))
    for path, wanted in found:
        path.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
