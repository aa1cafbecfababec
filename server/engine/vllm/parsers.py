"""Tool and reasoning parsers of vLLM, for the models whose turns are not Hermes style.

vLLM's parsers are imported when they are asked for, by the names of its own flags. Their interface is not stable: one
that fails on a turn costs nothing but a warning, the turn is then read by our own parser.
"""

from __future__ import annotations

import logging
from typing import Any

from strop.server.engine.chat.reading import HermesReader, Turn
from strop.server.engine.chat.toolcalls import Call
from strop.strategies.kit.types import Tool

log = logging.getLogger(__name__)


class VllmReader:
    """Reads turns with vLLM's parsers. TypeError if there is no parser of that name, or not for this tokenizer."""

    def __init__(self, tokenizer: Any, model_config: Any, eos_ids: tuple[int, ...], tool: str, reasoning: str) -> None:
        from vllm.parser import ParserManager

        self._parser: Any = ParserManager.get_parser(
            tool_parser_name=tool or None,
            reasoning_parser_name=reasoning or None,
            enable_auto_tools=bool(tool),
            model_name=str(model_config.model),
            tokenizer=tokenizer,
        )
        self._tokenizer, self._model_config = tokenizer, model_config
        self._eos_ids = frozenset(eos_ids)
        self._finds_tools = bool(tool)
        self._hermes = HermesReader()

    def read(self, text: str, ids: tuple[int, ...], tools: tuple[Tool, ...]) -> Turn:
        """Reasoning and calls as vLLM's parsers find them. Calls of functions that nobody offered stay text."""
        try:
            reasoning, content, calls = self._parse(self._raw(text, ids), ids, tools)
        except Exception:  # boundary: vLLM's parsers raise what they like; the answer is worth more than its parts
            log.exception("vLLM's parser failed on a turn")
            return self._hermes.read(text, ids, tools)
        if not self._finds_tools:
            turn = self._hermes.read(content, (), tools)
            return Turn(turn.content, turn.calls, reasoning)
        known = {tool.name for tool in tools}
        if (not calls and tools) or any(call.name not in known for call in calls):
            turn = self._hermes.read(content if not calls else text, (), tools)
            return Turn(turn.content, turn.calls, reasoning)
        return Turn(content, calls, reasoning)

    def _raw(self, text: str, ids: tuple[int, ...]) -> str:
        """The text with its special tokens, which many parsers look for, but without what ended the turn."""
        end = len(ids)
        while end and ids[end - 1] in self._eos_ids:
            end -= 1
        return str(self._tokenizer.decode(ids[:end], skip_special_tokens=False)) if end else text

    def _parse(self, raw: str, ids: tuple[int, ...], tools: tuple[Tool, ...]) -> tuple[str, str, tuple[Call, ...]]:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        asked: dict[str, Any] = {"messages": [], "model": ""}
        if tools:
            asked["tools"] = [
                {"type": "function", "function": {"name": tool.name, "parameters": tool.parameters or {}}}
                for tool in tools
            ]
        request = ChatCompletionRequest(**asked)
        parser = self._parser(self._tokenizer, request.tools, chat_template_kwargs={}, model_config=self._model_config)
        reasoning, content, calls = parser.parse(
            raw, request, enable_auto_tools=bool(tools), model_output_token_ids=list(ids)
        )
        return reasoning or "", content or "", tuple(Call(c.name, c.arguments) for c in calls or ())
