"""A reward model and the sandbox behind the whole server: selected by name, billed, and shown in health."""

from __future__ import annotations

import httpx
import pytest

pytest.importorskip("torch", reason="reward models need torch")
pytest.importorskip("transformers", reason="reward models need transformers")

from strop.server.app import build
from strop.server.layers import REWARD
from strop.server.settings import Settings
from tests.server.scoring.test_reward import saved


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("prm"), "rlhflow")


async def answers(app, *selections):
    """Status and body for each `strop` object."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://strop", timeout=60) as client,
    ):
        for selection in selections:
            body = {"model": "simulated", "messages": [{"role": "user", "content": "2+2?"}], "max_tokens": 24}
            reply = await client.post("/v1/chat/completions", json=body | {"strop": selection})
            yield reply.status_code, reply.json(), (await client.get("/health/ready")).json()["engines"]


async def test_strategies_use_the_reward_model_and_bill_every_token_it_read(model):
    settings = Settings(engine="simulated", reward_model=model, reward_format="rlhflow", device="cpu")
    app = build(settings)
    selections = [{"strategy": "best_of_n", "n": 3, "by": "prm"}, {"strategy": "beam_search", "n": 2, "width": 2}]
    read = 0
    async for status, body, engines in answers(app, *selections):
        assert status == 200, body
        read += body["strop"]["bill"]["phases"]["prm"]["prompt_tokens"]
        assert REWARD in engines
    metrics = await _metrics(app)
    assert read > 100
    assert f'strop_engine_prompt_tokens_total{{role="reward"}} {read:.1f}' in metrics


async def _metrics(app):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://strop") as client:
        return (await client.get("/metrics")).text


@pytest.mark.parametrize(
    ("selection", "setting"),
    [
        ({"strategy": "beam_search", "n": 2}, "reward_model"),
        ({"strategy": "best_of_n", "n": 2, "by": "orm"}, "reward_model"),
        ({"strategy": "verify_revise", "by": "program", "spec": {"program": "pass"}}, "verifiers.sandbox"),
        ({"strategy": "verify_revise", "by": "callback", "spec": {"url": "http://a/"}}, "verifiers.callbacks"),
    ],
)
async def test_what_the_operator_did_not_switch_on_is_refused_with_the_settings_name(selection, setting):
    async for status, body, _ in answers(build(Settings(engine="simulated")), selection):
        assert status == 400
        assert body["error"]["code"] == "unsupported_capability"
        assert setting in body["error"]["message"]
