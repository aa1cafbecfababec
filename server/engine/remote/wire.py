"""Ops on the wire: every field of a chat becomes a field of OpenAI's schema or of the upstream's dialect, or an error.

Nothing is dropped: what an upstream is not known to take raises `MissingCapability` or `BadRequest`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from strop.server.engine.remote.dialect import Dialect
from strop.server.engine.remote.growing import Start
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import BadRequest, MissingCapability
from strop.strategies.kit.ops import Generate
from strop.strategies.kit.types import Chat, Format, Message, Sampling, ToolChoice

Path = Literal["chat/completions", "completions"]


@dataclass(frozen=True, slots=True)
class Opening:
    """How a generation begins on the wire.

    `prompt` (text or token ids) goes to /v1/completions; without it the messages go to /v1/chat/completions, where
    `turn` is the text of an assistant turn to be continued.
    """

    prompt: str | tuple[int, ...] | None = None
    turn: str | None = None
    start: Start = Start()

    @property
    def path(self) -> Path:
        """Where to send it."""
        return "chat/completions" if self.prompt is None else "completions"


def request(
    op: Generate, opening: Opening, n: int, seed: int | None, dialect: Dialect, model: str, context: int | None = None
) -> dict[str, Any]:
    """The JSON body of one upstream call for `n` drafts of `op`."""
    chat = op.chat
    body: dict[str, Any] = {"model": model, "stream": True}
    if opening.prompt is None:
        body |= _conversation(chat, opening, dialect)
    else:
        body |= _raw(chat, opening, dialect, context)
    body |= _sampling(chat.sampling, dialect)
    if chat.sampling.max_tokens is not None:
        body["max_tokens" if opening.prompt is not None else dialect.length] = chat.sampling.max_tokens
    body |= _logprobs(op, opening)
    if dialect.usage:
        body["stream_options"] = {"include_usage": True}
        if dialect.running_usage:
            body["stream_options"]["continuous_usage_stats"] = True
    if dialect.token_ids:
        body["return_token_ids"] = True
    if n > 1:
        body["n"] = n
    if seed is not None:
        body["seed"] = seed
    return body


def _conversation(chat: Chat, opening: Opening, dialect: Dialect) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [message(m, dialect) for m in chat.messages]}
    if opening.turn is not None:
        body["messages"].append({"role": "assistant", "content": opening.turn})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if chat.tools:
        body |= {"tools": tools(chat), "tool_choice": _choice(chat.tool_choice)}
        body["parallel_tool_calls"] = chat.parallel_tool_calls
    return body | _format(chat.format)


def _raw(chat: Chat, opening: Opening, dialect: Dialect, context: int | None) -> dict[str, Any]:
    prompt = opening.prompt
    ids = isinstance(prompt, tuple)
    if ids and not dialect.tokenize:
        raise MissingCapability(
            Capability.RAW_PROMPT, "the upstream is not known to take token ids as a prompt", param="prompt"
        )
    body: dict[str, Any] = {"prompt": list(prompt) if isinstance(prompt, tuple) else prompt}
    if chat.format.kind != "text":
        if dialect.family == "openai":
            raise BadRequest("a raw prompt cannot have a response_format at this upstream", param="response_format")
        body |= _format(chat.format)
    if ids and context is not None and chat.sampling.max_tokens is None:
        body["max_tokens"] = max(1, context - len(body["prompt"]))
    return body


def message(turn: Message, dialect: Dialect) -> dict[str, Any]:
    """One turn. Chat templates of open models know no `developer`: its words become the system's."""
    role = "system" if turn.role == "developer" and not dialect.developer else turn.role
    sent: dict[str, Any] = {"role": role, "content": turn.content}
    if turn.name is not None:
        sent["name"] = turn.name
    if turn.tool_call_id is not None:
        sent["tool_call_id"] = turn.tool_call_id
    if turn.tool_calls:
        sent["content"] = turn.content or None
        sent["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in turn.tool_calls
        ]
    return sent


def tools(chat: Chat) -> list[dict[str, Any]]:
    """The tools in OpenAI's form."""
    listed = []
    for tool in chat.tools:
        function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        if tool.strict:
            function["strict"] = True
        listed.append({"type": "function", "function": function})
    return listed


def _choice(choice: ToolChoice) -> str | dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}} if choice.mode == "named" else choice.mode


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.kind == "text":
        return {}
    if wanted.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    schema = {"name": wanted.name or "answer", "schema": wanted.schema or {}, "strict": wanted.strict}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _logprobs(op: Generate, opening: Opening) -> dict[str, Any]:
    top = op.chat.sampling.top_logprobs
    if not top and not {"logprobs", "top_logprobs"} & set(op.want):
        return {}
    if opening.prompt is not None:
        return {"logprobs": top}
    return {"logprobs": True, "top_logprobs": top}


_SET: Mapping[str, Callable[[Sampling], Any]] = {
    "temperature": lambda s: s.temperature,
    "top_p": lambda s: s.top_p,
    "presence_penalty": lambda s: s.presence_penalty or None,
    "frequency_penalty": lambda s: s.frequency_penalty or None,
    "stop": lambda s: list(s.stop) or None,
    "logit_bias": lambda s: {str(id_): bias for id_, bias in s.logit_bias} or None,
    "top_k": lambda s: s.top_k,
    "min_p": lambda s: s.min_p,
    "repetition_penalty": lambda s: s.repetition_penalty,
    "min_tokens": lambda s: s.min_tokens or None,
    "stop_token_ids": lambda s: list(s.stop_token_ids) or None,
    "ignore_eos": lambda s: s.ignore_eos or None,
}
_EXTRA: Mapping[str, Capability | None] = {
    "top_k": Capability.TOP_K,
    "min_p": Capability.MIN_P,
    "repetition_penalty": Capability.REPETITION_PENALTY,
    "min_tokens": None,
    "stop_token_ids": Capability.STOP_IDS,
    "ignore_eos": Capability.IGNORE_EOS,
}


def _sampling(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    """Every value that is set, but for the seed, the length and `top_logprobs`, which depend on more than sampling."""
    body = {name: value for name, read in _SET.items() if (value := read(sampling)) is not None}
    for name in sorted(body.keys() & (_EXTRA.keys() - dialect.extras)):
        why, capability = "the upstream is not known to take it", _EXTRA[name]
        if capability is not None:
            raise MissingCapability(capability, why, param=name)
        raise BadRequest(f"{name} cannot be honoured: {why}", param=name, code="unsupported_parameter")
    return body
