"""The page of the API, and the headers that tell a key what it has left."""

from __future__ import annotations

import re

import pytest

from strop.server.keys import digest
from strop.server.settings import Key

KEY = "sk-strop-abcdefghijklmnop"


def test_the_page_shows_every_route_and_every_field_and_loads_nothing(whole):
    page = whole.http.get("/docs")
    document = whole.http.get("/openapi.json").json()
    assert page.headers["content-type"].startswith("text/html")
    for path, methods in document["paths"].items():
        assert all(f"{method.upper()} {path}" in page.text for method in methods)
    for name, schema in document["components"]["schemas"].items():
        assert f'id="{name}"' in page.text
        assert all(f"<code>{field}</code>" in page.text for field in schema.get("properties", {}))
    assert not re.findall(r"<script|<link|<img|src=|url\(|https?://", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert set(re.findall(r'href="#([^"]+)"', page.text)) <= set(re.findall(r'id="([^"]+)"', page.text))


def test_what_a_key_has_left_is_in_the_headers_of_every_answer(serve):
    server = serve(keys=[Key(sha256=digest(KEY), tenant="a", tokens_per_minute=100)])
    server.http.headers["authorization"] = f"Bearer {KEY}"
    first = server.ask("Say exactly: one two three four five six").headers
    assert first["x-ratelimit-limit-tokens"] == "100"
    assert first["x-ratelimit-remaining-tokens"] in ("91", "92", "93", "94")
    assert re.fullmatch(r"\d+\.\d{3}s", first["x-ratelimit-reset-tokens"])
    server.ask(max_tokens=200, strop={"strategy": "best_of_n", "n": 8})
    refused = server.ask()
    assert refused.status_code == 429
    assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
    assert float(refused.headers["x-ratelimit-reset-tokens"][:-1]) > 1
    assert float(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
def test_without_a_quota_there_are_no_such_headers(whole, path):
    assert not [name for name in whole.http.get(path).headers if name.startswith("x-ratelimit")]
