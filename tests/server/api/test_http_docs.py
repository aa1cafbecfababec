"""docs/http.md says what the server does: its fields, its error codes, and no route that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from strop.server.api.errors import TABLE
from strop.server.api.wire import text
from strop.server.api.wire.chat import REFUSED, ChatRequest
from strop.server.api.wire.strop import StropBudget, StropOptions
from strop.server.api.wire.text import CompletionRequest
from strop.strategies.kit.knobs import RESERVED

TEXT = (Path(__file__).parents[3] / "docs/http.md").read_text()
WORDS = set(re.findall(r"`\"?([a-z_]+)\"?(?:[:`]|: )", TEXT)) | set(re.findall(r'"([a-z_]+)"', TEXT))


def test_every_documented_route_exists(live):
    document = live.http.get("/openapi.json").json()["paths"]
    documented = re.findall(r"`(GET|POST) (/[^`]*)`", TEXT)
    missing = [path for method, path in documented if method.lower() not in document.get(path, {})]
    assert set(missing) <= {"/docs", "/openapi.json"}


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest, StropBudget, StropOptions])
def test_every_field_is_documented(model):
    assert {name for name in model.model_fields if name not in WORDS} == set()


def test_every_refused_field_and_reserved_key_is_documented():
    assert set(REFUSED) | set(text.REFUSED) <= WORDS
    assert RESERVED <= WORDS


def test_every_error_code_of_the_table_is_documented():
    assert {row.code for row in TABLE.values() if row.code} <= WORDS
