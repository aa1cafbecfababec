"""Documentation says what the code does: nothing undocumented, nothing documented that does not exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from strop.server.app import build
from strop.server.cli import app as cli
from strop.server.observe.metrics import Metrics
from strop.server.settings import Settings
from strop.strategies import CATALOGUE

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DEPLOY = ROOT / "deploy"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "bench").glob("*.md"), *DEPLOY.rglob("*.md")])
OUTSIDE = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}  # FastAPI's own pages


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Heading, without marks, to the text below it, up to the next heading of any level."""
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {heading.replace("`", "").strip(): body for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def missing(wanted: Iterator[str] | list[str], text: str) -> list[str]:
    return [word for word in wanted if f"`{word}`" not in text]


# ------------------------------------------------------------------------------------------- strategies


def test_every_strategy_has_a_section_that_names_its_knobs() -> None:
    found = sections(page("strategies.md"))
    assert [name for name in CATALOGUE if name not in found] == []
    assert {
        name: lost for name, s in CATALOGUE.items() if (lost := missing(list(s.knobs.model_fields), found[name]))
    } == {}


# ---------------------------------------------------------------------------------------------- metrics


def metric_names() -> list[str]:
    """As a scrape shows them: a counter ends in _total."""
    registry = CollectorRegistry()
    Metrics(registry)
    return [family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()]


def test_every_metric_is_documented() -> None:
    assert missing(metric_names(), page("metrics.md")) == []


def test_every_documented_metric_exists() -> None:
    names = set(metric_names())
    known = names | {name + suffix for name in names for suffix in ("_bucket", "_sum", "_count")}
    assert set(re.findall(r"`(strop_[a-z0-9_]+)`", page("metrics.md"))) - known == set()


# ------------------------------------------------------------------------------------------ command line


def commands(command: Any, path: tuple[str, ...] = ("strop",)) -> Iterator[tuple[str, Any]]:
    """`strop serve` and the like, with the command object; groups are descended into."""
    nested = getattr(command, "commands", None)
    if not nested:
        yield " ".join(path), command
    for name, child in (nested or {}).items():
        if not child.hidden:
            yield from commands(child, (*path, name))


@cache
def flags() -> dict[str, list[str]]:
    """Command to its visible long flags."""
    return {
        path: [
            max(param.opts, key=len)
            for param in command.params
            if param.param_type_name == "option" and not param.hidden and "--help" not in param.opts
        ]
        for path, command in commands(typer.main.get_command(cli))
    }


def test_every_command_has_a_section_that_names_its_flags() -> None:
    found = sections(page("cli.md"))
    assert [command for command in flags() if command not in found] == []
    assert {command: lost for command, wanted in flags().items() if (lost := missing(wanted, found[command]))} == {}


def test_every_documented_flag_exists() -> None:
    for command, text in sections(page("cli.md")).items():
        if command in flags():
            documented = set(re.findall(r"`(--[a-z0-9-]+)`", text))
            assert documented - set(flags()[command]) - {"--help"} == set(), command


# ------------------------------------------------------------------------------------------------- HTTP


@cache
def application() -> FastAPI:
    return build(Settings(engine="simulated"))


def routes() -> set[str]:
    """`POST /v1/chat/completions` and the like; `{id:path}` is written `{id}`."""
    return {
        f"{method} {path}"
        for path, methods in _paths(application().routes)
        if path not in OUTSIDE
        for method in methods - {"HEAD", "OPTIONS"}
    }


def _paths(found: list[Any], prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    for route in found:
        path = prefix + re.sub(r"{(\w+):\w+}", r"{\1}", getattr(route, "path", ""))
        if nested := getattr(route, "routes", None):
            yield from _paths(nested, path)
        elif methods := getattr(route, "methods", None):
            yield path, set(methods)


def test_the_routes_are_found() -> None:
    assert {"POST /v1/chat/completions", "GET /v1/models", "GET /health/live", "GET /health/ready"} <= routes()


def test_every_route_is_documented() -> None:
    assert missing(sorted(routes()), page("http.md")) == []


def test_every_documented_route_exists() -> None:
    documented = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`\s?]*)`", page("http.md")))
    assert documented - routes() - {f"GET {path}" for path in OUTSIDE} == set()


# --------------------------------------------------------------------------------------------- settings


def settings_keys(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """`port`, `limits.tokens` and the like."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_setting_is_documented() -> None:
    assert missing(settings_keys(), page("configuration.md")) == []


# --------------------------------------------------------------------------------- deployment, makefile


def deployed() -> Iterator[tuple[str, Any]]:
    for path in sorted([*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")]):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield path.relative_to(ROOT).as_posix(), document


def values(document: Any, key: str) -> Iterator[Any]:
    """Every value stored under `key`, however deep."""
    for name, value in document.items() if isinstance(document, dict) else enumerate(document or []):
        if name == key:
            yield value
        if isinstance(value, dict | list):
            yield from values(value, key)


def test_probes_and_scrapes_ask_for_routes_that_exist() -> None:
    asked = {probe["path"] for _, document in deployed() for probe in values(document, "httpGet")}
    asked |= {path for _, document in deployed() for path in values(document, "metrics_path")}
    asked |= set(re.findall(r"http://[^/\s'\"]+(/health/\w+)", (ROOT / "Dockerfile").read_text(encoding="utf-8")))
    assert asked >= {"/health/live", "/health/ready", "/metrics"}
    assert {f"GET {path}" for path in asked} - routes() == set()


def test_deployments_use_settings_and_flags_that_exist() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "Dockerfile", *DEPLOY.rglob("*.y*ml")])
    names = {name.lower().partition("__")[0] for name in re.findall(r"\bSTROP_([A-Z_]+)\b", text)}
    assert names
    assert names - set(Settings.model_fields) == set()
    used = set(re.findall(r"\"(--[a-z-]+)\"", text))
    assert used
    assert used - set(flags()["strop serve"]) == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_scrape_config() -> None:
    command = ["promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_make_targets_of_a_page_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert set(re.findall(r"(?:`|^|&& )make ([a-z-]+)", text, flags=re.MULTILINE)) - make_targets() == set()
