"""Values that fit a JSON schema: what the simulated model writes when a format or a forced tool asks for JSON.

Knows types, enum, const, required and optional properties, `additionalProperties`, arrays with `prefixItems`, lengths,
bounds, multiples, the usual formats, `$ref`, `anyOf`, `oneOf`, `allOf` and `not` by trial. Every value is checked with
jsonschema before it is used; a schema that no attempt fits is a `BadRequest`, never an invalid answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable

from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing.brain import unit

_ATTEMPTS = 8
_DEEPEST = 24
_SHALLOW = 4  # below this depth optional properties are left out
_LARGE = 10_000  # items or characters beyond which a schema is refused

_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "date": "2025-01-31",
        "time": "12:30:00Z",
        "date-time": "2025-01-31T12:30:00Z",
        "duration": "P1D",
        "email": "a@example.org",
        "idn-email": "a@example.org",
        "hostname": "example.org",
        "ipv4": "192.0.2.1",
        "ipv6": "2001:db8::1",
        "uri": "https://example.org/",
        "uri-reference": "/a",
        "iri": "https://example.org/",
        "uuid": "123e4567-e89b-42d3-a456-426614174000",
        "json-pointer": "/a",
        "regex": "a",
    }
)
_GUESSES = (
    "a",
    "A",
    "0",
    "aa",
    "abc",
    "ABC",
    "Abc",
    "12",
    "123",
    "1234",
    "12345",
    "a1",
    "A1",
    "a-b",
    "2025-01-31",
    "x@y.zz",
)


class _Stuck(Exception):
    """This branch of the schema cannot be filled."""


def instance(schema: Any, answer: str, key: str, *, param: str) -> Any:
    """A value of `schema`, decided by `key`, with `answer` in the first place that has room for it.

    Raises `BadRequest` naming `param` when the schema is invalid or too hard for this simulator.
    """
    try:
        Draft202012Validator.check_schema(schema)
        judge = Draft202012Validator(schema)
        for attempt in range(_ATTEMPTS):
            try:
                value = _Filler(schema, answer if attempt < _ATTEMPTS // 2 else None, f"{key}/{attempt}").fill(schema)
            except _Stuck:
                continue
            if judge.is_valid(value):
                return value
    except SchemaError as failure:
        raise BadRequest(f"not a JSON schema: {failure.message}", param=param, code="invalid_json_schema") from failure
    except (Unresolvable, RecursionError, re.error) as failure:
        raise BadRequest(
            f"the schema cannot be followed: {failure}", param=param, code="invalid_json_schema"
        ) from failure
    raise BadRequest("the simulated model found no value of this schema", param=param, code="unsupported_json_schema")


class _Filler:
    """One attempt. The places of the schema are numbered, so each draws its own values."""

    def __init__(self, root: Any, answer: str | None, key: str) -> None:
        self._root = root
        self._answer = answer
        self._key = key
        self._place = 0

    def fill(self, schema: Any, depth: int = 0) -> Any:
        if schema is True or schema == {}:
            return self._text({})
        if schema is False or depth > _DEEPEST:
            raise _Stuck
        if "$ref" in schema:
            siblings = {name: value for name, value in schema.items() if name != "$ref"}
            return self.fill(_merged(self._target(schema["$ref"]), siblings), depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._pick(schema["enum"])
        if schema.get("allOf"):
            rest = {name: value for name, value in schema.items() if name != "allOf"}
            for part in schema["allOf"]:
                rest = _merged(self._target(part["$ref"]) if isinstance(part, dict) and "$ref" in part else part, rest)
            return self.fill(rest, depth + 1)
        for name in ("anyOf", "oneOf"):
            if schema.get(name):
                return self._branch(schema, name, depth)
        return self._typed(schema, depth)

    def _branch(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        """The first branch that can be filled, starting at a drawn one while there is room to be bold."""
        branches, rest = schema[name], {key: value for key, value in schema.items() if key != name}
        start = int(self._unit() * len(branches)) if depth < _SHALLOW else 0
        for branch in [*branches[start:], *branches[:start]]:
            try:
                return self.fill(_merged(branch, rest), depth + 1)
            except _Stuck:
                continue
        raise _Stuck

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type", _kind(schema))
        match self._pick(kind) if isinstance(kind, list) else kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "boolean":
                return self._unit() < 0.5
            case "null":
                return None
            case "integer":
                return self._number(schema, whole=True)
            case "number":
                return self._number(schema, whole=False)
            case _:
                return self._text(schema)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        extra = schema.get("additionalProperties", True)
        names = list(required) if depth >= _SHALLOW else list(dict.fromkeys([*properties, *required]))
        value: dict[str, Any] = {}
        for name in names:
            try:
                value[name] = self.fill(properties.get(name, extra), depth + 1)
            except _Stuck:
                if name in required:
                    raise
        for number in range(min(schema.get("minProperties", 0), _LARGE)):
            if len(value) < schema["minProperties"]:
                value.setdefault(f"p{number}", self.fill(extra, depth + 1))
        return value

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least, first = schema.get("minItems", 0), schema.get("prefixItems", [])
        most = schema.get("maxItems", _LARGE)
        if least > _LARGE:
            raise _Stuck
        wanted = min(max(least, len(first), 0 if depth >= _SHALLOW else 1 + int(2 * self._unit())), most)
        items: list[Any] = []
        if "contains" in schema and most:
            items = [self.fill(schema["contains"], depth + 1) for _ in range(schema.get("minContains", 1))]
        while len(items) < wanted:
            item = first[len(items)] if len(items) < len(first) else schema.get("items", {})
            try:
                items.append(self._new(item, items, depth) if schema.get("uniqueItems") else self.fill(item, depth + 1))
            except _Stuck:
                if len(items) < least:
                    raise
                break
        return items

    def _new(self, schema: Any, items: list[Any], depth: int) -> Any:
        """A value that is not among `items` yet."""
        seen = {json.dumps(item, sort_keys=True) for item in items}
        for number in range(64):
            value = self.fill(schema, depth + 1)
            value = f"{value}{number}" if isinstance(value, str) and "enum" not in schema and number else value
            if json.dumps(value, sort_keys=True) not in seen:
                return value
        raise _Stuck

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> int | float:
        """The answer if it fits, else a drawn number near the bounds."""
        low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
        high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
        step = schema.get("multipleOf", 1)
        start = low if low > -math.inf else min(high, 0)
        first = math.ceil(start / step) * step
        room = int(min((high - first) / step, 99)) if high > first else 0
        drawn = int(self._unit() * (room + 1))
        guesses: list[int | float] = [first + step * drawn, first, first + step, first - step]
        if not whole and "multipleOf" not in schema:
            guesses += [start, (low + high) / 2, start + 0.5, start - 0.5]
        if self._answer is not None and re.fullmatch(r"-?\d{1,15}", self._answer):
            guesses.insert(0, int(self._answer))
        for guess in guesses:
            if math.isfinite(guess) and (not whole or float(guess).is_integer()) and _within(guess, schema):
                if str(guess) == self._answer:
                    self._answer = None
                return int(guess) if whole else guess
        raise _Stuck

    def _text(self, schema: Mapping[str, Any]) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", _LARGE)
        if least > _LARGE:
            raise _Stuck
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        if "pattern" in schema:
            guesses = [self._answer or "", *_GUESSES, "a" * least, "A" * least, "0" * least]
            return _matching(str(schema["pattern"]), [g for g in guesses if least <= len(g) <= most])
        text: str = self._answer if self._answer is not None else self._pick(["red", "green", "blue", "seven", "maybe"])
        self._answer = None
        return str(text[:most].ljust(least, "x"))

    def _target(self, ref: str) -> Any:
        if not ref.startswith("#"):
            raise BadRequest(f"only local $ref can be followed, not '{ref}'", code="invalid_json_schema")
        found = self._root
        for part in ref.removeprefix("#").removeprefix("/").split("/") if ref != "#" else ():
            name = part.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(name)] if isinstance(found, list) else found[name]
            except (KeyError, ValueError, IndexError, TypeError) as failure:
                raise BadRequest(f"'{ref}' leads nowhere", code="invalid_json_schema") from failure
        return found

    def _pick(self, options: list[Any]) -> Any:
        return options[int(self._unit() * len(options))]

    def _unit(self) -> float:
        self._place += 1
        return unit(self._key, self._place)


def _kind(schema: Mapping[str, Any]) -> str:
    """The type a schema without one has in mind."""
    hints = {
        "object": ("properties", "required", "additionalProperties", "minProperties"),
        "array": ("items", "prefixItems", "minItems", "maxItems", "contains"),
        "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }
    return next((kind for kind, names in hints.items() if any(name in schema for name in names)), "string")


def _matching(pattern: str, guesses: list[str]) -> str:
    found = next((guess for guess in guesses if re.search(pattern, guess)), None)
    if found is None:
        raise _Stuck
    return found


def _within(number: float, schema: Mapping[str, Any]) -> bool:
    return bool(
        schema.get("minimum", -math.inf) <= number <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < number < schema.get("exclusiveMaximum", math.inf)
        and number % schema.get("multipleOf", 1 if float(number).is_integer() else number) == 0
    )


def _merged(first: Any, second: Mapping[str, Any]) -> Any:
    """Two schemas that must both hold: properties and required names are joined, for the rest the second one wins."""
    if not isinstance(first, dict):
        return dict(second) if first is True else first
    both = {**first, **second}
    if "properties" in first and "properties" in second:
        both["properties"] = first["properties"] | second["properties"]
    if "required" in first and "required" in second:
        both["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
    for name, tighter in (
        ("minimum", max),
        ("maximum", min),
        ("minLength", max),
        ("maxLength", min),
        ("minItems", max),
    ):
        if name in first and name in second:
            both[name] = tighter(first[name], second[name])
    return both
