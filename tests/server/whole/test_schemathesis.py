"""Schemathesis reads our OpenAPI document and tries to break the server with 2,000 requests, good and bad."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode

from strop.strategies import CATALOGUE

CASES = 2_000
SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_no_request_that_schemathesis_thinks_of_is_a_server_error(whole, mode):
    schema = schemathesis.openapi.from_dict(told(whole.http.get("/openapi.json").json()))
    schema.config.base_url = whole.url
    operations = [found.ok() for found in schema.get_all_operations()]
    posts = [operation for operation in operations if operation.method.upper() == "POST"]
    others = [operation for operation in operations if operation not in posts]
    assert len(posts) == 6
    seen: Counter[int] = Counter()
    if mode is GenerationMode.NEGATIVE:
        others = []  # nothing can be wrong about a request without parameters
    for operation, share in [*((each, 160) for each in posts), *((each, 8) for each in others)]:
        _try(operation, mode, share, whole, seen)
    assert whole.ask().status_code == 200
    assert whole.idle
    if mode is GenerationMode.POSITIVE:
        assert seen[200] > CASES // 4, seen
    assert sum(seen.values()) >= CASES * 0.45, seen


def told(document: Any) -> Any:
    """The document with the names that exist on this server, so that good requests reach the engine."""
    for schema in document["components"]["schemas"].values():
        if "model" in schema.get("properties", {}) and "strop" in schema["properties"]:
            schema["properties"]["model"] = {"enum": ["simulated", "simulated:vote-8", "simulated:deep"]}
            schema["properties"]["strop"] = {"enum": [None, {}, *({"strategy": name} for name in CATALOGUE)]}
    for operation in (each for path in document["paths"].values() for each in path.values()):
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = {"enum": [*CATALOGUE] if parameter["name"] == "strategy" else ["simulated"]}
    return document


def _try(operation: Any, mode: Any, share: int, server: Any, seen: Counter[int]) -> None:
    @settings(SETTINGS, max_examples=share)
    @_given(operation, mode)
    def attempt(case: Any) -> None:
        answer = case.call(session=None, timeout=20)
        seen[answer.status_code] += 1
        assert answer.status_code < 500, (case.as_curl_command(), answer.text[:500])
        if answer.status_code >= 400 and answer.headers.get("content-type", [""])[0].startswith("application/json"):
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    attempt()


def _given(operation: Any, mode: Any) -> Any:
    from hypothesis import given

    return given(case=operation.as_strategy(generation_mode=mode))
