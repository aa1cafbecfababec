"""Responses as OpenAI writes them: one object with a list of output items."""

from __future__ import annotations

from typing import Any

from strop.server.api.ledger import Usage
from strop.server.api.wire.chat import Style
from strop.server.api.wire.completion import logprobs_of
from strop.server.api.wire.responses import ResponsesRequest, wants_logprobs
from strop.strategies.kit.types import Draft, Tokens, ToolCall

Item = dict[str, Any]


class ResponseObject:
    """Everything about one response that does not depend on its answer, and the items that do.

    `suffix` makes the ids: `resp_...`, `rs_...`, `msg_...`, `fc_...`.
    """

    def __init__(self, request: ResponsesRequest, id: str, created: int) -> None:  # noqa: A002  # the wire's word
        self.request = request
        self.id = id
        self.suffix = id.removeprefix("resp_")
        self.created = created
        self._style = Style(logprobs=wants_logprobs(request), top_logprobs=request.top_logprobs or 0)

    def body(self, status: str, output: list[Item], **more: Any) -> dict[str, Any]:
        """The object; `more` adds usage, strop, error or incomplete_details."""
        request = self.request
        reasoning = request.reasoning
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": request.model,
            "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": None},
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": self._format()},
            "tool_choice": self._tool_choice(),
            "tools": [self._tool(tool.model_dump(exclude_none=True)) for tool in request.tools or ()],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "metadata": request.metadata or {},
            **more,
        }

    def reasoning(self, text: str) -> Item:
        """A reasoning item with one summary part."""
        return {"id": f"rs_{self.suffix}", "type": "reasoning", "summary": [summary_part(text)] if text else []}

    def message(self, text: str, tokens: Tokens, status: str = "completed") -> Item:
        """The assistant's message."""
        return {
            "id": f"msg_{self.suffix}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [self.part(text, tokens)] if status != "in_progress" else [],
        }

    def part(self, text: str, tokens: Tokens) -> Item:
        """The text of the message."""
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs(tokens)}

    def logprobs(self, tokens: Tokens) -> list[dict[str, Any]]:
        """Logprobs of some tokens, if asked for."""
        found = logprobs_of(tokens, self._style)
        return [{**token} for token in (found["content"] if found else None) or ()]

    def call(self, i: int, call: ToolCall, status: str = "completed") -> Item:
        """A function call."""
        arguments = call.arguments if status == "completed" else ""
        return {
            "id": f"fc_{self.suffix}_{i}",
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": arguments,
            "status": status,
        }

    def items(self, draft: Draft, thought: str = "") -> list[Item]:
        """The output of a draft."""
        made = [self.reasoning(thought)] if thought else []
        if draft.text or not draft.tool_calls:
            made.append(self.message(draft.text, draft.tokens, "completed" if complete(draft) else "incomplete"))
        return made + [self.call(i, call) for i, call in enumerate(draft.tool_calls)]

    def _format(self) -> Item:
        wanted = self.request.text.format if self.request.text else None
        return wanted.model_dump(by_alias=True, exclude_none=True) if wanted else {"type": "text"}

    def _tool_choice(self) -> Any:
        choice = self.request.tool_choice
        return "auto" if choice is None else choice if isinstance(choice, str) else choice.model_dump()

    @staticmethod
    def _tool(tool: Item) -> Item:
        return {"parameters": None, "strict": False, **tool}


def summary_part(text: str) -> Item:
    """One part of a reasoning summary."""
    return {"type": "summary_text", "text": text}


def complete(draft: Draft) -> bool:
    """Whether the model came to an end by itself."""
    return draft.finish in ("stop", "tool_calls")


def ending(draft: Draft) -> dict[str, Any]:
    """`status` and `incomplete_details` of a finished response."""
    if complete(draft):
        return {"status": "completed", "incomplete_details": None}
    reason = "content_filter" if draft.finish == "content_filter" else "max_output_tokens"
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def usage_of(usage: Usage) -> dict[str, Any]:
    """The usage block under the names of this endpoint."""
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": prompt["cached_tokens"] if prompt else 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": completion["reasoning_tokens"] if completion else 0},
        "total_tokens": usage["total_tokens"],
    }
