"""Keys at the door: the middleware alone, around an application that shows whom it was told."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from strop.server.api.auth import Authentication
from strop.server.keys import Keyring, digest
from strop.server.settings import Key

KEY = "sk-strop-abcdefghijklmnop"


async def _who(request: Request) -> JSONResponse:
    principal = getattr(request.state, "principal", None)
    return JSONResponse(principal.tenant if principal else None)


def _client(keys: list[Key], metrics_public: bool = True) -> httpx.AsyncClient:
    paths = ("/v1/models", "/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json")
    app = Authentication(
        Starlette(routes=[Route(path, _who) for path in paths]), Keyring(keys), metrics_public=metrics_public
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://strop")


@pytest.fixture
def keys():
    return [Key(sha256=digest(KEY), tenant="team-a")]


async def test_a_key_names_its_tenant_as_bearer_or_as_x_api_key(keys):
    async with _client(keys) as client:
        assert (await client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"})).json() == "team-a"
        assert (await client.get("/v1/models", headers={"authorization": f"bearer {KEY}"})).json() == "team-a"
        assert (await client.get("/v1/models", headers={"x-api-key": KEY})).json() == "team-a"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {digest(KEY)}"},
        {"x-api-key": ""},
    ],
)
async def test_without_the_right_key_the_answer_is_401_in_openai_shape(keys, headers):
    async with _client(keys) as client:
        refused = await client.get("/v1/models", headers=headers)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/v1/models", "/nothing"])
async def test_everything_but_probes_is_behind_the_key(keys, path):
    async with _client(keys) as client:
        assert (await client.get(path)).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_probes_need_no_key(keys, path):
    async with _client(keys) as client:
        assert (await client.get(path)).status_code == 200


async def test_metrics_are_public_only_if_the_settings_say_so(keys):
    async with _client(keys, metrics_public=True) as client:
        assert (await client.get("/metrics")).status_code == 200
    async with _client(keys, metrics_public=False) as client:
        assert (await client.get("/metrics")).status_code == 401


async def test_without_keys_everyone_may_come_in():
    async with _client([]) as client:
        assert (await client.get("/v1/models")).json() is None
