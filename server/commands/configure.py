"""From flags, environment and YAML to `Settings`, with complaints that name the wrong key and where it stands."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_settings import SettingsError

from strop.server.commands.flags import fields, flags, nested
from strop.server.commands.output import USAGE, fail
from strop.server.settings import ModelPrice, Name, Preset, Settings, load

PREFIX = "STROP_"
OTHERS = frozenset({"STROP_URL", "STROP_CACHE", "STROP_KERNELS", "STROP_TEST_MODEL", "STROP_BENCH_OPTILLM"})
MAPPINGS = ("presets", "effort_map", "prices")


def configured(config: Path | None, given: Mapping[str, Any], model: str | None = None) -> Settings:
    """The settings that flags over environment over YAML give; ends the program with code 2 when one is wrong.

    Presets, efforts and prices given by flags are added to those from elsewhere.
    """
    try:
        written = _read_yaml(config)
        _check_environment()
        added = _mappings(given)
        plain = nested({name: value for name, value in given.items() if name not in MAPPINGS})
    except ValueError as wrong:
        fail(str(wrong), USAGE)
    try:
        settings = load(config, model=model, **plain)
    except ValidationError as invalid:
        fail("\n".join(_explain(error, plain, written) for error in invalid.errors()), USAGE)
    except SettingsError as invalid:
        fail(f"{invalid}: {invalid.__cause__}", USAGE)
    merged = {name: {**getattr(settings, name), **more} for name, more in added.items()}
    return settings.model_copy(update=merged)


def _read_yaml(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        written = yaml.safe_load(config.read_text())
    except OSError as missing:
        raise ValueError(f"cannot read {config}: {missing.strerror}") from missing
    except yaml.YAMLError as broken:
        raise ValueError(f"{config} is not YAML: {broken}") from broken
    if written is not None and not isinstance(written, dict):
        raise ValueError(f"{config} must hold a mapping of settings")
    return written or {}


def _check_environment() -> None:
    """Refuse `STROP_*` variables that mean nothing, as a misspelt one would."""
    tops = {path[0] for path, _ in fields()}
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and variable not in OTHERS and name.split("__")[0] not in tops:
            service = " (a Kubernetes service link? set enableServiceLinks: false)" if "SERVICE" in variable else ""
            raise ValueError(f"unknown setting in the environment: {variable}{service}")


def _mappings(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Presets, efforts and prices of the command line, checked."""
    added: dict[str, dict[str, Any]] = {}
    try:
        if "presets" in given:
            pairs = [_pair(text) for text in given["presets"]]
            added["presets"] = TypeAdapter(dict[Name, Preset]).validate_python(dict(pairs))
        if "effort_map" in given:
            added["effort_map"] = TypeAdapter(dict[str, str]).validate_json(given["effort_map"])
        if "prices" in given:
            added["prices"] = TypeAdapter(dict[str, ModelPrice]).validate_python(_read_yaml(given["prices"]))
    except ValidationError as invalid:
        flag = {"presets": "--preset", "effort_map": "--effort-map"}
        culprit = next(name for name in MAPPINGS if name in given and name not in added)
        first = invalid.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{flag.get(culprit, '--prices')}: {where}: {first['msg']}") from invalid
    return added


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError("there is no '='")
        return name, json.loads(value)
    except ValueError as wrong:
        raise ValueError(f"--preset wants name=JSON, not '{text}': {wrong}") from wrong


def _explain(error: Any, given: Mapping[str, Any], written: Mapping[str, Any]) -> str:
    """One complaint: the key, what is wrong, and where it was written."""
    loc = tuple(str(part) for part in error["loc"])
    key = ".".join(loc) or "settings"
    wrong = "unknown key" if error["type"] == "extra_forbidden" else error["msg"].removeprefix("Value error, ")
    return f"{key}: {wrong}{_source(loc, given, written)}"


def _source(loc: tuple[str, ...], given: Mapping[str, Any], written: Mapping[str, Any]) -> str:
    variable = PREFIX + "__".join(loc).upper()
    if _has(given, loc):
        names = [flag.name for flag in flags().values() if flag.path == loc]
        return f" (flag --{names[0]})" if names else ""
    if variable in os.environ:
        return f" (environment variable {variable})"
    return " (config file)" if _has(written, loc) else ""


def _has(tree: Any, loc: tuple[str, ...]) -> bool:
    for part in loc:
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return bool(loc)
