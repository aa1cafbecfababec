"""Settings that name strategies and presets, checked before the server starts rather than at the first request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from strop.server.settings import DEFAULT_PRESETS, Settings
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.strategy import Strategy


def misnamed(settings: Settings, known: Mapping[str, Strategy]) -> Iterator[str]:
    """What is wrong with the names and knobs in the settings, one sentence each."""
    names = {*known, *settings.presets}
    if settings.default_strategy not in names:
        yield f"default_strategy: there is no strategy or preset '{settings.default_strategy}'; known: {_list(names)}"
    for name, preset in settings.presets.items():
        if preset.strategy in known:
            yield from _knobs(f"presets.{name}", known[preset.strategy], preset.knobs)
        elif DEFAULT_PRESETS.get(name) != preset:
            yield f"presets.{name}: there is no strategy '{preset.strategy}'; known: {_list(known)}"
    for effort, target in settings.effort_map.items():
        if target not in names:
            yield f"effort_map.{effort}: there is no strategy or preset '{target}'; known: {_list(names)}"
    for index, key in enumerate(settings.keys):
        for name in key.strategies or ():
            if name not in names:
                yield f"keys[{index}].strategies: there is no strategy or preset '{name}'; known: {_list(names)}"


def _knobs(where: str, strategy: Strategy, knobs: dict[str, object]) -> Iterator[str]:
    try:
        strategy.check(dict(knobs))
    except BadRequest as wrong:
        yield f"{where}.knobs: {wrong.message}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
