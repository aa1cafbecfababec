"""What the simulated model says: a `Brain` with a few reflexes, and JSON that fits the schema it is asked for."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from strop.server.engine.simulated.instances import instance
from strop.server.engine.simulated.tokenizer import decoded
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import BadRequest, MissingCapability
from strop.strategies.kit.ops import Generate
from strop.strategies.kit.types import Chat, Tool, ToolCall
from strop.strategies.testing import Brain
from strop.strategies.testing.brain import task_of, truth_of, unit

_EXACTLY = re.compile(
    r"\s*(?:please\s+)?(?:(?:reply|respond|answer)\s+(?:with\s+)?(?:exactly|only|just)(?:\s+the\s+(?:word|words|text))?"
    r"|say(?:\s+(?:exactly|only|just))?|repeat(?:\s+(?:after\s+me|exactly|the\s+following))?|echo)\s*(?::\s*|\s)(.+?)\s*",
    re.IGNORECASE | re.DOTALL,
)
_QUOTED = re.compile(r"([\"'`“])(.*)[\"'`”]\.?", re.DOTALL)
_FENCED = re.compile(r"<(/?[a-z_]+) \S+>")
_SPOKEN = (("×", "*"), (" times ", "*"), (" plus ", "+"), (" minus ", "-"))
_ANY_OBJECT = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


@dataclass(frozen=True, slots=True)
class Said:
    """The words of a turn (or of its continuation), or its tool calls. `structured`: JSON, without filler words."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    structured: bool = False


def truth(question: str) -> str:
    """The right answer; "17 times 3" is a sum too."""
    for spoken, sign in _SPOKEN:
        question = question.replace(spoken, sign)
    return truth_of(question)


def readable(chat: Chat) -> Chat:
    """A chat whose raw prompt, if it has one, is text."""
    return replace(chat, prompt=decoded(chat.prompt)) if isinstance(chat.prompt, tuple) else chat


def digest(chat: Chat) -> str:
    """What a chat says, without the random fence words of prompt files: equal chats have equal digests."""
    words = (
        chat.prompt if isinstance(chat.prompt, str) else "\x1e".join(f"{m.role}\x1f{m.content}" for m in chat.messages)
    )
    return blake2b(_FENCED.sub(r"<\1>", words).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def say(brain: Brain, op: Generate, key: str) -> Said:
    """The turn that `key` decides, or what follows the op's prefix. `op.chat` must be `readable`."""
    chat, prefix = op.chat, op.prefix
    before = "" if prefix is None else prefix.draft.text + prefix.inject
    calls = _calls(brain, chat, key) if not before or chat.tool_choice.mode in ("required", "named") else ()
    if calls:
        return Said("", calls, structured=True)
    whole = _whole(brain, chat, key)
    if whole is not None and whole.startswith(before):
        return Said(whole[len(before) :], structured=chat.format.kind != "text")
    if chat.format.kind != "text":
        why = "the simulated model continues JSON only where it would have written the same beginning"
        raise MissingCapability(Capability.PREFIX, why, param="response_format")
    return Said(brain.say(replace(chat, answers=False), key, prefix))


def _whole(brain: Brain, chat: Chat, key: str) -> str | None:
    """A turn that is JSON or a reflex; None leaves it to the brain."""
    if chat.format.kind == "text":
        return exactly(chat.question) if chat.answers else None
    schema = chat.format.schema if chat.format.kind == "json_schema" else _ANY_OBJECT
    value = instance(schema or _ANY_OBJECT, brain.answer(*task_of(chat), key), key, param="response_format")
    return json.dumps(value, ensure_ascii=False)


def exactly(question: str) -> str | None:
    """X, when the question is no more than "say X", "repeat X" or "reply with exactly X"."""
    asked = _EXACTLY.fullmatch(question)
    if asked is None:
        return None
    wanted = asked.group(1)
    quoted = _QUOTED.fullmatch(wanted)
    return quoted.group(2) if quoted else wanted.removesuffix(".") or wanted


def _calls(brain: Brain, chat: Chat, key: str) -> tuple[ToolCall, ...]:
    """One call of the named or the first tool, until a tool's result is there; forced ones always."""
    mode = chat.tool_choice.mode
    if not chat.tools or mode == "none" or (mode == "auto" and chat.messages and chat.messages[-1].role == "tool"):
        return ()
    tool = next((t for t in chat.tools if t.name == chat.tool_choice.name), None)
    if mode == "named" and tool is None:
        raise BadRequest(f"there is no tool '{chat.tool_choice.name}'", param="tool_choice")
    chosen = tool or chat.tools[0]
    arguments = json.dumps(_arguments(brain, chat, chosen, key), ensure_ascii=False)
    return (ToolCall(f"call_{int(unit('call', key) * 1e12):012d}", chosen.name, arguments),)


def _arguments(brain: Brain, chat: Chat, tool: Tool, key: str) -> Any:
    schema = tool.parameters or {"type": "object"}
    return instance({"type": "object", **schema}, brain.answer(*task_of(chat), key), key, param="tools")
