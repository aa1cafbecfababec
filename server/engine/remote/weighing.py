"""One `Logprobs` op at a vLLM upstream: the likelihood of given text, read from the logprobs of a prompt."""

from __future__ import annotations

from typing import Any

from strop.server.engine.remote.dialect import Found
from strop.server.engine.remote.meter import Call, Totals, guess
from strop.server.engine.remote.opening import Tokenizer, generated_ids
from strop.server.engine.remote.pool import Pool, Replica, affinity
from strop.strategies.kit.errors import EngineError
from strop.strategies.kit.fan import fan_out
from strop.strategies.kit.ops import Logprobs, Weighed
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Logprob


async def weigh(pool: Pool, totals: Totals, op: Logprobs, span: Span) -> Weighed:
    """One likelihood per draft. Each costs one call that reads prompt and draft, and one generated token."""
    key = affinity(op.chat)
    tokenizer = Tokenizer(pool, key)
    prompt = await tokenizer.prompt(op.chat, pool.dialect)

    async def one(i: int) -> Logprob:
        known = generated_ids(op.drafts[i])
        ids = await tokenizer.text(op.drafts[i].text) if known is None else known
        return await _read(pool, totals, span, key, prompt, ids) if ids else Logprob(())

    values = await fan_out(one, len(op.drafts))
    return Weighed(tuple(values), span.receipt.usage)


async def _read(
    pool: Pool, totals: Totals, span: Span, key: str, prompt: tuple[int, ...], ids: tuple[int, ...]
) -> Logprob:
    async def use(replica: Replica, found: Found) -> Any:
        body = {
            "model": found.model.name,
            "prompt": [*prompt, *ids],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        call = Call(span.receipt, totals, guess(body))
        answers: list[Any] = []
        try:
            await replica.link.stream("/v1/completions", body, lambda: call.sent(1), answers.append)
            if answers and answers[0].get("usage"):
                call.report(answers[0]["usage"], None)
        finally:
            call.close()
        return answers[0] if answers else {}

    answer = await pool.attempt(key, use)
    try:
        rows = answer["choices"][0]["prompt_logprobs"][-len(ids) :]
        return Logprob(tuple(float(row[str(id_)]["logprob"]) for id_, row in zip(ids, rows, strict=True)))
    except (KeyError, IndexError, TypeError, ValueError) as failure:
        raise EngineError("the upstream's logprobs do not belong to the text that was sent") from failure
