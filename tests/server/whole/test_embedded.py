"""Text completions of the embedded model, as an evaluation harness asks for them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from strop.server.app import build
from strop.server.settings import Settings

pytestmark = pytest.mark.model


async def test_a_greedy_continuation_is_scored_as_greedy_and_another_one_is_not() -> None:
    app = build(Settings(engine="transformers"))
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]

        async def complete(prompt: str, **fields: Any) -> Any:
            body = {"model": model, "prompt": prompt, "temperature": 0, **fields}
            answer = await http.post("/v1/completions", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            [choice] = answer.json()["choices"]
            return choice

        context = "The capital of France is"
        greedy = (await complete(context, max_tokens=3, logprobs=1))["logprobs"]
        for words, expected in (("".join(greedy["tokens"]), True), (" purple monkeys dance", False)):
            for length in (0, 1):
                scored = await complete(context + words, max_tokens=length, echo=True, logprobs=1)
                columns = scored["logprobs"]
                assert scored["text"].startswith(context + words)
                assert columns["token_logprobs"][0] is None
                first = columns["text_offset"].index(len(context))
                last = len(columns["tokens"]) - length
                rows = list(zip(columns["token_logprobs"], columns["top_logprobs"], strict=True))[first:last]
                assert all(value == max(top.values()) for value, top in rows) is expected
                if expected:
                    assert [value for value, _ in rows] == pytest.approx(greedy["token_logprobs"], abs=1e-3)
