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
from strop.strategies.kit.types import Logprob, Tokens


async def weigh(pool: Pool, totals: Totals, op: Logprobs, span: Span) -> Weighed:
    """One likelihood per draft. Each costs one call that reads prompt and draft, and one generated token."""
    key = affinity(op.chat)
    tokenizer = Tokenizer(pool, key)
    prompt = await tokenizer.prompt(op.chat, pool.dialect)

    async def one(i: int) -> Logprob:
        known = generated_ids(op.drafts[i])
        ids = await tokenizer.text(op.drafts[i].text) if known is None else known
        return await _read(pool, totals, span, key, prompt, ids, op.top) if ids else Logprob(())

    values = await fan_out(one, len(op.drafts))
    return Weighed(tuple(values), span.receipt.usage)


async def _read(
    pool: Pool, totals: Totals, span: Span, key: str, prompt: tuple[int, ...], ids: tuple[int, ...], top: int
) -> Logprob:
    async def use(replica: Replica, found: Found) -> Any:
        body = {
            "model": found.model.name,
            "prompt": [*prompt, *ids],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": top,
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
        # The first token of all has nothing before it, and therefore no logprob.
        rows = [{} if row is None and i == 0 and not prompt else row for i, row in enumerate(rows)]
        logprobs = tuple(float(row[str(id_)]["logprob"]) if row else 0.0 for id_, row in zip(ids, rows, strict=True))
        return Logprob(logprobs, (), _tokens(ids, logprobs, rows, top) if top else Tokens())
    except (KeyError, IndexError, TypeError, ValueError) as failure:
        raise EngineError("the upstream's logprobs do not belong to the text that was sent") from failure


def _tokens(ids: tuple[int, ...], logprobs: tuple[float, ...], rows: list[Any], top: int) -> Tokens:
    """The tokens with their texts and the `top` likeliest in every place, as vLLM names them."""
    texts = tuple(str(row.get(str(id_), {}).get("decoded_token") or "") for id_, row in zip(ids, rows, strict=True))
    best = tuple(
        tuple(
            (int(id_), str(entry.get("decoded_token") or ""), float(entry["logprob"]))
            for id_, entry in sorted(row.items(), key=lambda item: -float(item[1]["logprob"]))[:top]
        )
        for row in rows
    )
    return Tokens(ids, texts, logprobs, (), (), best)
