"""Several strategies on one question, at once, with strop.clients (needs no OpenAI SDK)."""

# ruff: noqa: T201
import os

import anyio

from strop.clients import Choice, ServerError, compare

QUESTION = "What is 17 * 23?"
CHOICES = [Choice("direct"), Choice("best_of_n", {"n": 4}), Choice.parse("self_consistency:n=8")]


async def main() -> None:
    url = os.environ.get("STROP_URL", "http://127.0.0.1:8000")
    results = await compare(QUESTION, CHOICES, url=url, api_key=os.environ.get("STROP_API_KEY"))
    for choice, result in zip(CHOICES, results, strict=True):
        if isinstance(result, ServerError):
            print(f"{choice.label}: failed: {result}")
        else:
            print(f"{choice.label}: {result.text.splitlines()[-1]}\n  {result.bill}")


anyio.run(main)
