"""Chats to token ids, with the model's own chat template wherever it can do the job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any

from strop.server.engine.chat.speaker import Speaker

Message = Mapping[str, Any]
Tool = Mapping[str, Any]  # OpenAI shape: {"type": "function", "function": {"name", "description", "parameters"}}

PLAIN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n\\n' }}{% endfor %}assistant:"


class ChatTemplate:
    """Renders OpenAI-shaped messages. A model without a chat template gets "role: text" lines.

    A template that ignores tools is helped: the tools go into the system message (`prompts/tools.md`, Hermes style),
    past calls and their results into ordinary turns.
    """

    def __init__(self, speaker: Speaker) -> None:
        self._tokenizer = speaker.tokenizer
        self._has_template = speaker.has_chat_template

    def ids(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        continue_final: bool = False,
        **variables: Any,
    ) -> tuple[int, ...]:
        """Token ids of `text(...)`."""
        return self.encode(self.text(messages, tools, continue_final, **variables), special=not self._has_template)

    def encode(self, text: str, special: bool = False) -> tuple[int, ...]:
        """Token ids of plain text; `special` adds what the tokenizer puts around a text by itself (such as a start
        token). ValueError for text that is not Unicode (half a surrogate pair).
        """
        text.encode()  # the tokenizer's own complaint is a TypeError that explains nothing
        return tuple(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        continue_final: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt up to where the assistant is to write.

        With `continue_final` the last message, which must be the assistant's, is left open to be continued exactly
        where its content ends. `variables` reach the template. ValueError if the template refuses the messages.
        """
        opening = ""
        if continue_final:
            if not messages or messages[-1]["role"] != "assistant":
                raise ValueError("continue_final needs an assistant message at the end")
            messages, opening = messages[:-1], str(messages[-1].get("content") or "")
        if not messages:
            raise ValueError("there is no message to answer")
        native = self.speaks_tools
        turns = [dict(m) for m in messages] if native else [_plain(m, self._prompts) for m in messages]
        if tools and not native:
            turns = self._with_tools(turns, tools)
        return self._render(turns, list(tools) if native and tools else None, **variables) + opening

    @cached_property
    def speaks_tools(self) -> bool:
        """Whether the model's template does something with tools."""
        if not self._has_template:
            return False
        turns: list[dict[str, Any]] = [{"role": "user", "content": "?"}]
        tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
        return self._render(turns, None) != self._render(turns, [tool])

    @cached_property
    def _prompts(self) -> dict[str, str]:
        text = (files("strop.server.engine.chat") / "prompts" / "tools.md").read_text(encoding="utf-8")
        sections = (section.partition("\n") for section in text.split("## ")[1:])
        return {name.strip(): body.strip() for name, _, body in sections}

    def _with_tools(self, turns: list[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
        listing = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        addition = self._prompts["system"].format(tools=listing)
        if turns[0]["role"] == "system":
            return [{**turns[0], "content": f"{turns[0]['content']}\n\n{addition}"}, *turns[1:]]
        return [{"role": "system", "content": addition}, *turns]

    def _render(self, turns: list[dict[str, Any]], tools: list[Tool] | None, **variables: Any) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    tools=tools,
                    chat_template=None if self._has_template else PLAIN,
                    add_generation_prompt=True,
                    tokenize=False,
                    **variables,
                )
            )
        except (TemplateError, TypeError) as refusal:
            raise ValueError(f"the model's chat template refused the messages: {refusal}") from refusal


def _plain(message: Message, prompts: Mapping[str, str]) -> dict[str, Any]:
    """A turn with nothing but role and text; calls and their results are spelled out."""
    role, content = message["role"], str(message.get("content") or "")
    if role == "tool":
        return {"role": "user", "content": prompts["response"].format(content=content)}
    parts = [content] if content else []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = function["arguments"]
        spelled = {"name": function["name"], "arguments": _parsed(arguments)}
        parts.append(prompts["call"].format(call=json.dumps(spelled, ensure_ascii=False)))
    return {"role": "system" if role == "developer" else role, "content": "\n".join(parts)}


def _parsed(arguments: Any) -> Any:
    """Arguments as JSON if the text is JSON, else as they are."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments
