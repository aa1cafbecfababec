"""How a generation begins at an upstream: its messages, a raw prompt, or an assistant turn to be continued."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from strop.server.engine.remote.dialect import Dialect, Found
from strop.server.engine.remote.growing import Start
from strop.server.engine.remote.pool import Pool, Replica, affinity
from strop.server.engine.remote.wire import Opening, message, tools
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import EngineError, MissingCapability
from strop.strategies.kit.ops import Generate
from strop.strategies.kit.types import Chat, Draft, Prefix, Tokens


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The upstream's own tokenizer and chat template, over HTTP."""

    pool: Pool
    key: str

    async def text(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Ids of a piece of text; `special` adds what a prompt begins with."""
        return await self._ask({"prompt": text, "add_special_tokens": special}) if text else ()

    async def prompt(self, chat: Chat, dialect: Dialect) -> tuple[int, ...]:
        """Ids of everything before the answer."""
        if isinstance(chat.prompt, tuple):
            return chat.prompt
        if chat.prompt is not None:
            return await self.text(chat.prompt, special=True)
        body: dict[str, Any] = {
            "messages": [message(turn, dialect) for turn in chat.messages],
            "add_generation_prompt": True,
        }
        if chat.tools:
            body["tools"] = tools(chat)
        return await self._ask(body)

    async def _ask(self, body: dict[str, Any]) -> tuple[int, ...]:
        async def use(replica: Replica, found: Found) -> Any:
            return await replica.link.post("/tokenize", {"model": found.model.name, **body})

        answer = await self.pool.attempt(self.key, use)
        ids = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or not all(isinstance(id_, int) for id_ in ids):
            raise EngineError("the upstream's tokenizer did not answer with token ids")
        return tuple(ids)


async def opening(pool: Pool, op: Generate) -> Opening:
    """What to send for `op`. A turn is continued by token ids if they are known, else by its text."""
    if op.prefix is None:
        return Opening(op.chat.prompt)
    if op.chat.format.kind != "text":
        raise MissingCapability(
            Capability.PREFIX, "no upstream continues a turn within a format", param="response_format"
        )
    key = affinity(op.chat)
    dialect = pool.dialect
    if dialect.tokenize and not op.chat.tools and not op.prefix.draft.tool_calls:
        return await _by_tokens(Tokenizer(pool, key), op.chat, op.prefix, dialect)
    start = await _text_start(Tokenizer(pool, key) if dialect.tokenize else None, op.prefix)
    if isinstance(op.chat.prompt, str):
        return Opening(op.chat.prompt + start.draft.text, start=start)
    if op.chat.prompt is None and dialect.continues and not op.prefix.draft.reasoning:
        return Opening(turn=start.draft.text, start=start)
    raise MissingCapability(Capability.PREFIX, "the upstream cannot continue a turn of this kind")


async def _by_tokens(tokenizer: Tokenizer, chat: Chat, prefix: Prefix, dialect: Dialect) -> Opening:
    if prefix.draft.reasoning and not prefix.draft.text:
        raise MissingCapability(Capability.PREFIX, "the upstream cannot continue inside its reasoning")
    known = generated_ids(prefix.draft)
    ids = await tokenizer.text(prefix.draft.text) if known is None else known
    columns = prefix.draft.tokens[: len(ids)] if known is not None else Tokens(ids, _last(prefix.draft.text, len(ids)))
    inject = await tokenizer.text(prefix.inject)
    start = replace(
        prefix.draft,
        text=prefix.draft.text + prefix.inject,
        tokens=_followed(columns, inject, prefix.inject),
        n_tokens=len(ids) + len(inject),
        injected=_injected(prefix.draft, len(ids), len(inject)),
    )
    prompt = await tokenizer.prompt(chat, dialect)
    return Opening(prompt + ids + inject, start=Start(start, inserted=len(inject)))


async def _text_start(tokenizer: Tokenizer | None, prefix: Prefix) -> Start:
    """Without a tokenizer the inserted tokens are guessed: four characters each."""
    inserted = len(await tokenizer.text(prefix.inject)) if tokenizer else -(-len(prefix.inject) // 4)
    draft = replace(
        prefix.draft,
        text=prefix.draft.text + prefix.inject,
        tokens=Tokens(),
        n_tokens=prefix.draft.n_tokens + inserted,
        injected=_injected(prefix.draft, prefix.draft.n_tokens, inserted),
    )
    return Start(draft, reports_tokens=False, inserted=inserted)


def generated_ids(draft: Draft) -> tuple[int, ...] | None:
    """Ids that spell exactly the draft's text, without the end-of-turn token; None when they are not known.

    A stop string is cut out of the text, but not out of the tokens: such a draft is tokenized anew.
    """
    ids, texts = draft.tokens.ids, draft.tokens.texts
    if not ids or len(ids) != len(texts) or isinstance(draft.stop_reason, str):
        return None
    end = len(ids)
    while draft.finish == "stop" and end and not texts[end - 1]:
        end -= 1
    return ids[:end]


def _injected(draft: Draft, at: int, count: int) -> tuple[tuple[int, int], ...]:
    return (*draft.injected, (at, at + count)) if count else draft.injected


def _followed(before: Tokens, ids: tuple[int, ...], text: str) -> Tokens:
    """Columns with inserted tokens after them; what nobody sampled has the logprob 0.0 and no alternatives."""
    count = len(ids)
    begun = len(before) > 0
    return Tokens(
        before.ids + ids,
        before.texts + _last(text, count),
        before.logprobs + (0.0,) * count if before.logprobs or not begun else (),
        top=before.top + ((),) * count if before.top or not begun else (),
    )


def _last(text: str, count: int) -> tuple[str, ...]:
    """`count` texts that join to `text`: all of it in the last one."""
    return ("",) * (count - 1) + (text,) if count else ()
