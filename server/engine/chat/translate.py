"""Between strop's words and the token core's: chats and prefixes to prompt ids, token columns to drafts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from strop.server.engine.chat import types as core
from strop.server.engine.chat.reading import HermesReader, Reader
from strop.server.engine.chat.schema import require_modest
from strop.server.engine.chat.speaker import Defaults, Speaker
from strop.server.engine.chat.template import ChatTemplate
from strop.server.engine.chat.toolcalls import forced_call
from strop.strategies.kit.errors import BadRequest, ContextTooLong
from strop.strategies.kit.ops import Generate, Logprobs
from strop.strategies.kit.types import Chat, Draft, Finish, Message, Prefix, Tokens, Tool, ToolCall

FINISH: dict[core.Finish | None, Finish] = {"stop": "stop", "length": "length", "abort": "abort", "error": "abort"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A `Generate` op in the core's words. `before` is the prefix with its injected tokens; `tools` are callable."""

    request: core.TokenRequest
    before: Draft
    injected: int
    tools: tuple[Tool, ...]
    parallel: bool


class Translator:
    """Stateless but for the tokenizer; safe to use from a worker thread."""

    def __init__(self, speaker: Speaker, context: int, defaults: Defaults, reader: Reader | None = None) -> None:
        self._template = ChatTemplate(speaker)
        self._eos = frozenset(speaker.eos_ids)
        self._context = context
        self._tokenizer: Any = speaker.tokenizer
        self._defaults = defaults
        self._reader = reader or HermesReader()
        self.word = lru_cache(maxsize=2**16)(self._word)

    def request(self, op: Generate) -> Asked:
        """The token request of an op. `BadRequest` for what the model's template or context cannot take."""
        chat = op.chat
        tools = chat.tools if chat.tool_choice.mode != "none" else ()
        prompt = self._prompt(chat)
        before, injected = self._before(op.prefix)
        ids = prompt + before.tokens.ids
        if len(ids) + 1 > self._context:
            raise ContextTooLong(len(ids) + 1, self._context)
        try:
            request = self._sampled(ids, op.n, chat)
        except ValueError as wrong:
            raise BadRequest(str(wrong)) from wrong
        return Asked(request, before, injected, tools, chat.parallel_tool_calls)

    def continuations(self, op: Logprobs) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """Prompt ids and the ids of each draft."""
        return self._prompt(op.chat), [self._ids(draft) for draft in op.drafts]

    def drafts(self, asked: Asked, results: Sequence[core.TokenResult], key: str) -> list[Draft]:
        """Whole turns: the prefix and what was generated."""
        return [self._draft(asked, result, f"{key}[{result.index}]") for result in results]

    def columns(self, part: core.TokenResult | core.TokenEvent) -> Tokens:
        """Token columns under strop's names."""
        top = tuple(tuple((t.id, self.word(t.id), _finite(t.logprob)) for t in row) for row in part.top)
        logprobs = tuple(map(_finite, part.logprobs))
        return Tokens(part.ids, part.pieces, logprobs, part.entropies, part.certainties, top)

    def weighed(self, ids: tuple[int, ...], score: core.SequenceScore) -> Tokens:
        """Given tokens with their scores under strop's names."""
        top = tuple(tuple((t.id, self.word(t.id), _finite(t.logprob)) for t in row) for row in score.top)
        return Tokens(ids, tuple(map(self.word, ids)), tuple(map(_finite, score.logprobs)), score.entropies, (), top)

    def _prompt(self, chat: Chat) -> tuple[int, ...]:
        if isinstance(chat.prompt, tuple):
            return chat.prompt
        if chat.prompt is not None:
            return self._encode(chat.prompt, special=True)
        tools = [_wire_tool(tool) for tool in chat.tools] if chat.tool_choice.mode != "none" else []
        try:
            return self._template.ids([_wire_message(m) for m in chat.messages], tools)
        except ValueError as refused:
            raise BadRequest(str(refused), param="messages") from refused

    def _encode(self, text: str, special: bool = False) -> tuple[int, ...]:
        try:
            return self._template.encode(text, special)
        except ValueError as refused:
            raise BadRequest(str(refused), param="prompt") from refused

    def _before(self, prefix: Prefix | None) -> tuple[Draft, int]:
        """The prefix as one draft, tokens included, and how many of them are newly injected."""
        if prefix is None:
            return Draft(""), 0
        draft, ids = prefix.draft, self._ids(prefix.draft)
        inject = self._encode(prefix.inject) if prefix.inject else ()
        exact = draft.tokens.ids[: len(ids)] == ids
        old = draft.tokens[: len(ids)] if exact else Tokens.given(ids, self._pieces(ids, draft.text))
        tokens = old + Tokens.given(inject, self._pieces(inject, prefix.inject))
        spans = draft.injected + (((len(ids), len(tokens)),) if inject else ())
        before = Draft(draft.text + prefix.inject, tokens=tokens, n_tokens=len(tokens), injected=spans)
        return before, len(inject)

    def _pieces(self, ids: tuple[int, ...], text: str) -> tuple[str, ...]:
        """A text for every token, so that they join to `text`; where characters span tokens the first carries all."""
        pieces = tuple(map(self.word, ids))
        return pieces if "".join(pieces) == text or not ids else (text, *("",) * (len(ids) - 1))

    def _ids(self, draft: Draft) -> tuple[int, ...]:
        """The ids to continue a draft from: without what ended it, and without text that a stop string cut off."""
        tokens = draft.tokens
        if not tokens.ids or len(tokens.ids) != len(tokens.texts):
            return self._encode(draft.text)
        end = len(tokens.ids)
        if draft.finish == "stop":
            while end and tokens.texts[end - 1] == "" and (draft.stop_reason or tokens.ids[end - 1] in self._eos):
                end -= 1
            if isinstance(draft.stop_reason, str) and end and self.word(tokens.ids[end - 1]) != tokens.texts[end - 1]:
                return tokens.ids[: end - 1] + self._encode(tokens.texts[end - 1])
        return tokens.ids[:end]

    def _sampled(self, ids: tuple[int, ...], n: int, chat: Chat) -> core.TokenRequest:
        s, usual = chat.sampling, self._defaults
        room = self._context - len(ids)
        return core.TokenRequest(
            ids,
            n=n,
            max_tokens=min(s.max_tokens, room) if s.max_tokens is not None else None,
            temperature=usual.temperature if s.temperature is None else s.temperature,
            top_p=usual.top_p if s.top_p is None else s.top_p,
            top_k=usual.top_k if s.top_k is None else s.top_k,
            min_p=usual.min_p if s.min_p is None else s.min_p,
            presence_penalty=s.presence_penalty,
            frequency_penalty=s.frequency_penalty,
            repetition_penalty=usual.repetition_penalty if s.repetition_penalty is None else s.repetition_penalty,
            logit_bias=s.logit_bias,
            stop=s.stop,
            stop_token_ids=s.stop_token_ids,
            ignore_eos=s.ignore_eos,
            min_tokens=s.min_tokens,
            seed=s.seed,
            grammar=_grammar(chat),
            top_logprobs=s.top_logprobs,
        )

    def _draft(self, asked: Asked, result: core.TokenResult, key: str) -> Draft:
        before, new = asked.before, self.columns(result)
        tokens = before.tokens + new
        reason = result.stop_reason
        whole = () if isinstance(reason, str) else tokens.ids  # a stop string cut the text, not the tokens
        turn = self._reader.read(before.text + result.text, whole, asked.tools)
        found = turn.calls if asked.parallel else turn.calls[:1]
        calls = tuple(ToolCall(_call_id(key, i), c.name, c.arguments) for i, c in enumerate(found))
        finish = FINISH.get(result.finish, "length")
        if calls and finish == "stop":
            finish = "tool_calls"
        return Draft(
            turn.content, finish, calls, tokens, len(tokens), before.injected, reason, reasoning=turn.reasoning
        )

    def _word(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))


def _grammar(chat: Chat) -> core.Grammar | None:
    """What the text must match. ValueError for a schema that is too much for the compiler of grammars."""
    grammar = _shape(chat)
    if grammar is not None and grammar.schema is not None:
        require_modest(grammar.schema)
    return grammar


def _shape(chat: Chat) -> core.Grammar | None:
    match chat.tool_choice.mode:
        case "required" | "named":
            return forced_call([_wire_tool(tool) for tool in chat.tools], chat.tool_choice.name)
        case _:
            pass
    match chat.format.kind:
        case "json_schema":
            schema = chat.format.schema
            return core.Grammar("json_schema", schema={"type": "object"} if schema is None else schema)
        case "json_object":
            return core.Grammar("json_object")
        case _:
            return None


def _wire_tool(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _wire_message(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ]
    if message.tool_call_id:
        wire["tool_call_id"] = message.tool_call_id
    if message.name:
        wire["name"] = message.name
    return wire


def _call_id(key: str, i: int) -> str:
    """An id that is the same when the request is replayed."""
    return f"call_{blake2b(f'{key}:{i}'.encode(), digest_size=9).hexdigest()}"


def _finite(value: float) -> float:
    """JSON has no minus infinity."""
    return value if math.isfinite(value) else -9999.0
