"""Models, strategies, probes, metrics, unknown paths, key permissions and the OpenAPI document."""

from __future__ import annotations

import hashlib

import pytest
from openapi_schema_validator import OAS31Validator

from strop.server.settings import Key
from strop.strategies.testing import Simulated


def test_models_lists_the_base_first_and_then_the_presets_that_work(live):
    models = live.sdk().models.list().data
    assert [model.id for model in models] == ["tiny", "tiny:pick-2", "tiny:short"]
    assert all(model.object == "model" and model.created == 1_700_000_000 for model in models)
    assert models[0].max_model_len == 2048
    assert models[1].strop["knobs"] == {"n": 2}
    below = live.sdk("/v1/strategies/pick").models.list().data
    assert [model.id for model in below] == [model.id for model in models]


@pytest.mark.parametrize("path", ["/v1", "/v1/strategies/pick"])
def test_a_model_can_be_looked_up_by_any_id_a_request_may_name(live, path):
    for name in ("tiny", "tiny:pick-2", "tiny:revise"):
        assert live.http.get(f"{path}/models/{name}").json()["id"] == name
    for name in ("tiny:nope", "nope", "tiny:", "a/b", "tiny:gone"):
        missing = live.http.get(f"{path}/models/{name}")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_below_an_unknown_strategy_there_are_no_models(live):
    for path in ("/v1/strategies/nope/models", "/v1/strategies/nope/models/tiny", "/v1/strategies/nope"):
        missing = live.http.get(path)
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "strategy_not_found")


def test_strategies_are_described_with_knobs_cost_and_why_they_cannot_run(live):
    listing = live.http.get("/v1/strategies").json()
    cards = {card["name"]: card for card in listing["data"]}
    assert listing["object"] == "list"
    assert list(cards)[:2] == ["direct", "pick"]
    assert cards["pick"]["knobs"]["properties"]["n"]["default"] == 4
    assert cards["pick"]["knobs"]["additionalProperties"] is False
    assert cards["pick"]["cost"] == "n drafts."
    assert (cards["pick"]["available"], cards["pick"]["why_not"]) == (True, None)
    assert cards["stepwise"]["requires"] == ["prm"]
    assert cards["stepwise"]["available"] is False
    assert cards["stepwise"]["why_not"].startswith("prm: no reward model is loaded")
    assert live.http.get("/v1/strategies/pick").json() == cards["pick"]


def test_probes_tell_whether_a_request_would_be_served_but_not_why(serve):
    server = serve(Simulated())
    assert server.http.get("/health/live").json() == {"status": "ok"}
    for path in ("/health", "/health/ready"):
        assert server.http.get(path).json() == {"status": "ok", "engines": ["policy"]}
    server.engine.ready = False
    for path in ("/health", "/health/ready"):
        answer = server.http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert "retry-after" in answer.headers
        assert "/run" not in answer.text
    assert server.http.get("/health/live").status_code == 200


def test_version_is_the_installed_one(live):
    assert live.http.get("/version").json()["version"][0].isdigit()


def test_metrics_speak_openmetrics_to_those_who_ask(live):
    live.chat()
    plain = live.http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "strop_requests_total" in plain.text
    openmetrics = live.http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_requests_are_counted_once_each_with_their_status(serve):
    server = serve(Simulated())
    server.chat()
    server.chat(stream=True)
    server.chat(temperature=9)
    server.http.get("/v1/models")
    text = server.http.get("/metrics").text
    counted = sorted(line for line in text.splitlines() if line.startswith("strop_requests_total"))
    assert [line.rpartition(" ")[2] for line in counted] == ["1.0", "2.0"] or ["2.0", "1.0"]
    assert sum(float(line.rpartition(" ")[2]) for line in counted) == 3


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("POST", "/v1/models/tiny/x/y", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions/", 404, "unknown_url"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("PUT", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods_answer_in_openai_shape(live, method, path, status, code):
    answer = live.http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    assert ("allow" in answer.headers) == (status == 405)


def test_a_key_may_be_limited_to_some_strategies_or_presets(serve):
    secret = "sk-strop-abcdefghijklmnop"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    server = serve(Simulated(), keys=(Key(sha256=digest, tenant="a", strategies=("direct", "pick-2")),))
    server.http.headers["authorization"] = f"Bearer {secret}"
    assert server.chat().status_code == 200
    assert server.chat(model="tiny:pick-2").status_code == 200
    refused = server.chat(model="tiny:pick")
    assert refused.status_code == 403
    assert refused.json()["error"]["type"] == "permission_error"


def test_other_origins_are_let_in_only_when_they_are_listed(serve):
    origin = {"origin": "https://example.org", "access-control-request-method": "POST"}
    closed = serve(Simulated())
    assert closed.http.options("/v1/chat/completions", headers=origin).status_code == 405
    opened = serve(Simulated(), allowed_origins=("https://example.org",))
    allowed = opened.http.options("/v1/chat/completions", headers=origin)
    assert allowed.headers["access-control-allow-origin"] == "https://example.org"


def test_the_openapi_document_is_valid_and_has_no_trace_of_422(live):
    document = live.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    operations = [(path, method) for path, item in document["paths"].items() for method in item]
    assert ("/v1/chat/completions", "post") in operations
    for path, method in operations:
        assert "422" not in document["paths"][path][method]["responses"]
    for schema in document["components"]["schemas"].values():
        OAS31Validator.check_schema(schema)
    references = {part.partition('"')[0] for part in live.http.get("/openapi.json").text.split('"$ref":"')[1:]}
    names = {reference.removeprefix("#/components/schemas/") for reference in references}
    assert names <= set(document["components"]["schemas"])
    request = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert request["n"]["maximum"] == 8
    assert request["messages"]["maxItems"] == 2048


def test_the_interactive_documentation_is_there(live):
    assert live.http.get("/docs").headers["content-type"].startswith("text/html")
