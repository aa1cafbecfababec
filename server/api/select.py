"""Which strategy answers a request. The sources, in order; the first that names one wins and the rest is not read:

body `strop`, URL path, header `X-Strop-Strategy`, model suffix `base:preset`, `reasoning_effort` map, server default.

A name is that of a strategy or of a preset. A preset brings knobs and a budget; knobs and budget of the body's
`strop` object (or of the header's, if the body has none) are laid over them. The prompt is never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from strop.server.api.body import parse_object
from strop.server.api.errors import forbidden, not_found
from strop.server.api.wire.invalid import validated
from strop.server.api.wire.strop import StropOptions, checked
from strop.server.service import Principal, Selection, Service
from strop.server.settings import Preset
from strop.strategies.kit.budget import Budget
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.strategy import Strategy

HEADER = "x-strop-strategy"


@dataclass(frozen=True, slots=True)
class Wish:
    """Everything in one request that may choose a strategy."""

    model: str
    options: StropOptions | None = None
    path: str | None = None
    header: str | None = None
    effort: str | None = None


class Named(NamedTuple):
    """A name, the source it came from, and the request parameter to blame if it is unknown."""

    name: str
    source: str
    param: str


def select(service: Service, wish: Wish, principal: Principal) -> Selection:
    """The strategy, knobs and budget of a request, all checked. Raises `BadRequest` or `HttpError`."""
    suffix = suffix_of(service, wish.model)
    header_name, options = _header(wish.header)
    if wish.options is not None:
        options = checked(wish.options)
    chosen = next(_sources(service, wish, header_name, suffix))
    strategy, preset = resolve(service, chosen)
    if chosen.source == "body" and wish.options is not None and wish.options.preset and preset is None:
        raise _unknown(service, chosen)
    name = chosen.name if preset else None
    if principal.strategies is not None and not {strategy.name, name} & principal.strategies:
        raise forbidden(f"this key may not use the strategy '{strategy.name}'", param=chosen.param)
    knobs = {**(preset.knobs if preset else {}), **(options.knobs if options else {})}
    strategy.check(dict(knobs))
    return Selection(
        strategy=strategy,
        knobs=knobs,
        budget=_budget(preset, options),
        preset=name,
        source=chosen.source,
        trace=bool(options and options.trace),
        stream_trace=bool(options and options.stream_trace),
    )


def suffix_of(service: Service, model: str) -> str | None:
    """What follows `base:` in a model id, None for the base itself; 404 for every other model."""
    base = service.model_name
    if model == base:
        return None
    if model.startswith(f"{base}:") and len(model) > len(base) + 1:
        return model[len(base) + 1 :]
    raise not_found(
        f"the model '{model[:200]}' does not exist; this server has '{base}'", code="model_not_found", param="model"
    )


def resolve(service: Service, named: Named) -> tuple[Strategy, Preset | None]:
    """A strategy by its own name, or by that of a preset."""
    if named.name in service.strategies:
        return service.strategies[named.name], None
    preset = service.settings.presets.get(named.name)
    if preset is None or preset.strategy not in service.strategies:
        raise _unknown(service, named)
    return service.strategies[preset.strategy], preset


def presets(service: Service) -> dict[str, Preset]:
    """The presets whose strategy exists."""
    return {name: p for name, p in service.settings.presets.items() if p.strategy in service.strategies}


def _sources(service: Service, wish: Wish, header: str | None, suffix: str | None) -> Iterator[Named]:
    options = wish.options
    if options is not None and (body := options.strategy or options.preset):
        yield Named(body, "body", "strop.strategy" if options.strategy else "strop.preset")
    if wish.path is not None:
        yield Named(wish.path, "path", "strategy")
    if header:
        yield Named(header, "header", HEADER)
    if suffix is not None:
        yield Named(suffix, "model", "model")
    if wish.effort is not None and (mapped := service.settings.effort_map.get(wish.effort)):
        yield Named(mapped, "effort", "reasoning_effort")
    yield Named(service.settings.default_strategy, "default", "strop.strategy")


def _header(value: str | None) -> tuple[str | None, StropOptions | None]:
    """A name, or a JSON object with the same keys as the body's `strop`."""
    if value is None or not value.lstrip().startswith("{"):
        return (value.strip() or None if value else None), None
    options = checked(validated(StropOptions, parse_object(value), prefix=f"{HEADER}."))
    return options.strategy or options.preset, options


def _budget(preset: Preset | None, options: StropOptions | None) -> Budget:
    """The preset's budget with the request's own limits laid over it."""
    base = preset.budget if preset else {}
    budget = Budget(
        tokens=int(base["tokens"]) if "tokens" in base else None,
        calls=int(base["calls"]) if "calls" in base else None,
        seconds=base.get("seconds"),
        usd=base.get("usd"),
    )
    if options is None or options.budget is None:
        return budget
    return replace(budget, **options.budget.model_dump(exclude_none=True))


def _unknown(service: Service, named: Named) -> BadRequest:
    known = ", ".join([*service.strategies, *presets(service)])
    return BadRequest(
        f"there is no strategy or preset '{named.name[:200]}'; known: {known}",
        param=named.param,
        code="strategy_not_found",
    )
