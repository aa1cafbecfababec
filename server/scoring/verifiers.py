"""Verifiers: programs that check a draft. A verdict of None means: could not tell, and never counts as passed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

import anyio.to_process
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing.exceptions import Unresolvable

from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.fan import fan_out
from strop.strategies.kit.ops import Verified, Verify
from strop.strategies.kit.types import Verdict

MOST_SECONDS = 5.0
"""Wall time for one JSON-schema validation that may run patterns written by a client."""


async def json_object(op: Verify) -> Verified:
    """Is the text one JSON object?"""
    return Verified(tuple(_is_object(draft.text) for draft in op.drafts))


async def json_schema(op: Verify) -> Verified:
    """Is the text JSON that satisfies `spec["schema"]`? Schemas with patterns are checked in a killable process."""
    schema = op.spec.get("schema") or {}
    check_schema(schema)
    slow = has_pattern(schema)

    async def one(i: int) -> Verdict:
        text = op.drafts[i].text
        return await _bounded(text, schema) if slow else conforms(text, schema)

    return Verified(tuple(await fan_out(one, len(op.drafts))))


def check_schema(schema: dict[str, Any]) -> None:
    """Raise `BadRequest` unless `schema` is a valid JSON schema without remote references."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as invalid:
        raise BadRequest(f"not a valid JSON schema: {invalid.message[:200]}", param="response_format") from invalid
    except RecursionError as deep:
        raise BadRequest("the JSON schema is nested too deeply", param="response_format") from deep
    for reference in _values_of("$ref", schema):
        if not (isinstance(reference, str) and reference.startswith("#")):
            raise BadRequest("only local $ref (starting with #) are allowed", param="response_format")


def conforms(text: str, schema: dict[str, Any]) -> Verdict:
    """Whether `text` parses and satisfies `schema`; the evidence is the first violation."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as invalid:
        return Verdict(False, f"not JSON: {invalid}"[:200])
    try:
        problem = best_match(Draft202012Validator(schema).iter_errors(value))
    except RecursionError:
        return Verdict(None, "the schema refers to itself without end")
    except Unresolvable as missing:
        raise BadRequest(f"the JSON schema refers to nothing: {missing}"[:200], param="response_format") from missing
    return Verdict(True) if problem is None else Verdict(False, problem.message[:200])


def has_pattern(schema: Any) -> bool:
    """Whether validating may run a regular expression."""
    return any(True for _ in _values_of("pattern", schema)) or any(
        True for _ in _values_of("patternProperties", schema)
    )


async def _bounded(text: str, schema: dict[str, Any]) -> Verdict:
    with anyio.move_on_after(MOST_SECONDS):
        return await anyio.to_process.run_sync(partial(conforms, text, schema), cancellable=True)
    return Verdict(None, f"validation took longer than {MOST_SECONDS:g} seconds")


def _is_object(text: str) -> Verdict:
    verdict = conforms(text, {"type": "object"})
    return verdict if verdict.ok else Verdict(False, verdict.evidence or "not a JSON object")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _values_of(key: str, node: Any) -> Iterable[Any]:
    stack = [node]
    while stack:
        here = stack.pop()
        if isinstance(here, dict):
            if key in here:
                yield here[key]
            stack += here.values()
        elif isinstance(here, list):
            stack += here
