"""A whole `Generate` op thought out before its first token is sent: drafts are then revealed as time passes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from strop.server.engine.simulated import numbers
from strop.server.engine.simulated.decoding import Decoded, decode
from strop.server.engine.simulated.tokenizer import count, id_of, pieces, tokens_of
from strop.server.engine.simulated.voice import Said, digest, say
from strop.strategies.kit.errors import ContextTooLong
from strop.strategies.kit.ops import Generate
from strop.strategies.kit.types import Chat, Draft, Finish, Prefix, Tokens, ToolCall
from strop.strategies.testing import Brain
from strop.strategies.testing.brain import task_of

_PER_TURN = 4  # tokens that a chat template puts around every turn


@dataclass(frozen=True, slots=True)
class Planned:
    """One draft. `start` is the turn it continues, `columns` are those of all its tokens, `calls` its tool calls."""

    start: Draft
    new: Decoded
    columns: Tokens
    calls: tuple[ToolCall, ...] = ()

    def at(self, done: int) -> Draft:
        """The draft when `done` of its new tokens are there."""
        finished = done >= len(self.new)
        return replace(
            self.start,
            text=self.start.text + "".join(self.columns.texts[len(self.start.tokens) :][:done]),
            finish=self.new.finish if finished else "length",
            tool_calls=self.calls if finished else (),
            tokens=self.columns if finished else self.columns[: len(self.start.tokens) + done],
            n_tokens=len(self.start.tokens) + done,
            stop_reason=self.new.stop_reason if finished else None,
        )


def prompt_tokens(chat: Chat) -> int:
    """Tokens of everything the model reads before its turn."""
    if chat.prompt is not None:
        return count(chat.prompt) if isinstance(chat.prompt, str) else len(chat.prompt)
    turns = sum(
        _PER_TURN + count(m.content) + sum(count(c.name) + count(c.arguments) for c in m.tool_calls)
        for m in chat.messages
    )
    return turns + sum(_PER_TURN + count(t.name) + count(t.description) + count(str(t.parameters)) for t in chat.tools)


def room(chat: Chat, before: int, context: int) -> int:
    """Tokens that still fit after a prompt of `before`; `ContextTooLong` if what is asked for does not."""
    asked = before + (1 if chat.sampling.max_tokens is None else chat.sampling.max_tokens)
    if asked > context:
        raise ContextTooLong(asked, context)
    return context - before


def beginning(prefix: Prefix | None) -> Draft:
    """The turn so far: nothing, or the prefix's tokens and the inserted ones."""
    if prefix is None:
        return Draft("")
    known = prefix.draft.tokens
    before = known if known.ids and known.texts else tokens_of(prefix.draft.text)
    inserted = tokens_of(prefix.inject)
    span = ((len(before), len(before) + len(inserted)),) if len(inserted) else ()
    return replace(
        prefix.draft,
        text=prefix.draft.text + prefix.inject,
        tokens=Tokens(before.ids + inserted.ids, before.texts + inserted.texts),
        n_tokens=len(before) + len(inserted),
        injected=prefix.draft.injected + span,
        tool_calls=(),
    )


def planned(brain: Brain, op: Generate, start: Draft, key: str, left: int, *, said: Said | None = None) -> Planned:
    """The draft that `key` decides, after `start`, with at most `left` new tokens; `said` overrides the model."""
    said = said or say(brain, op, key)
    if said.calls:
        new, calls = _called(said.calls[0], op, left)
        shown = ("",) * len(new)
    else:
        new, calls = decode(said.text, op.chat.sampling, left, key, structured=said.structured), ()
        shown = new.texts
    tokens = Tokens(start.tokens.ids + new.ids, start.tokens.texts + shown)
    return Planned(start, new, _columns(brain, op, tokens), calls)


def _columns(brain: Brain, op: Generate, tokens: Tokens) -> Tokens:
    """Wanted columns of the whole turn; the prefix keeps the numbers it came with."""
    want, top = frozenset(op.want), op.chat.sampling.top_logprobs
    if not want - {"tokens"} and not top:
        return tokens
    mind = numbers.mind(brain, digest(op.chat), task_of(op.chat)[0], "".join(tokens.texts))
    fresh = numbers.columns(tokens, 0, mind, want, top)
    known = op.prefix.draft.tokens if op.prefix else Tokens()
    return replace(
        fresh,
        logprobs=_kept(known.logprobs, fresh.logprobs),
        entropies=_kept(known.entropies, fresh.entropies),
        certainties=_kept(known.certainties, fresh.certainties),
    )


def _kept(known: tuple[float, ...], fresh: tuple[float, ...]) -> tuple[float, ...]:
    return known + fresh[len(known) :] if fresh else ()


def _called(call: ToolCall, op: Generate, left: int) -> tuple[Decoded, tuple[ToolCall, ...]]:
    """Tokens of a call; one that does not fit is cut within its arguments."""
    texts = [*pieces(call.name), *pieces(call.arguments)]
    limit = left if op.chat.sampling.max_tokens is None else min(left, op.chat.sampling.max_tokens)
    named = len(pieces(call.name))
    if len(texts) > limit:
        call = replace(call, arguments="".join(texts[named:limit]))
    kept = tuple(texts[:limit])
    ends: Finish = "length" if len(texts) > limit else "stop" if op.chat.tool_choice.mode == "named" else "tool_calls"
    return Decoded(tuple(map(id_of, kept)), kept, ends), (call,) if limit >= named else ()
