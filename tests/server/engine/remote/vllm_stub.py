"""An honest upstream in vLLM's dialect with the simulated engine behind it. Its chat template writes <|role|>."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from strop.server.engine.simulated import SimulatedEngine
from strop.server.engine.simulated.tokenizer import decoded, ids_of
from strop.strategies.kit.errors import BadRequest, EngineOverloaded, StropError
from strop.strategies.kit.ops import Generate, Logprobs, Weighed
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.types import (
    Chat,
    Draft,
    Format,
    Message,
    Prefix,
    Sampling,
    Tokens,
    Tool,
    ToolCall,
    ToolChoice,
)
from tests.server.engine.remote.stub import Asked, Reply, Stub

_TURN = re.compile(r"<\|(\w+)\|>(.*?)(?=<\|\w+\|>|\Z)", re.DOTALL)


@dataclass
class VllmStub:
    """`auto_tools` is vLLM's --enable-auto-tool-choice."""

    engine: SimulatedEngine = field(default_factory=SimulatedEngine)
    stub: Stub = field(default_factory=Stub)
    auto_tools: bool = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[VllmStub]:
        model = {"id": "sim", "object": "model", "created": 1, "owned_by": "vllm", "max_model_len": 32_768}
        self.stub.models = [model]
        self.stub.handlers |= {
            "/tokenize": self._tokenize,
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completion,
        }
        async with self.engine.running(), self.stub.running():
            yield self

    async def _tokenize(self, asked: Asked, reply: Reply) -> None:
        body = asked.body
        text = body["prompt"] if "prompt" in body else templated(messages_of(body)) + "<|assistant|>"
        ids = list(ids_of(text))
        await reply.json({"count": len(ids), "max_model_len": 32_768, "tokens": ids})

    async def _chat(self, asked: Asked, reply: Reply) -> None:
        body = asked.body
        if body.get("tools") and body.get("tool_choice") == "auto" and not self.auto_tools:
            await refuse(reply, '"auto" tool choice requires --enable-auto-tool-choice')
            return
        chat, prefix = Chat(messages_of(body)), None
        if body.get("continue_final_message"):
            assert body["add_generation_prompt"] is False
            prefix = Prefix(Draft(chat.messages[-1].content))
            chat = replace(chat, messages=chat.messages[:-1])
        await self._answer(body, chat, prefix, reply)

    async def _completion(self, asked: Asked, reply: Reply) -> None:
        body, prompt = asked.body, asked.body["prompt"]
        text = decoded(tuple(prompt)) if isinstance(prompt, list) else prompt
        turns = [Message(role, words) for role, words in _TURN.findall(text)]  # type: ignore[arg-type]
        if "prompt_logprobs" in body:
            await self._weigh(prompt, turns, reply)
        elif turns:
            so_far = turns.pop().content
            prefix = Prefix(Draft(so_far)) if so_far else None
            await self._answer(body, Chat(tuple(turns)), prefix, reply, raw=True)
        else:
            await self._answer(body, Chat(prompt=text), None, reply, raw=True)

    async def _weigh(self, ids: list[int], turns: list[Message], reply: Reply) -> None:
        values: tuple[float, ...] = ()
        if turns:
            result = await self.engine.perform(
                Logprobs(Chat(tuple(turns[:-1])), (Draft(turns[-1].content),)), Span("up#1")
            )
            assert isinstance(result, Weighed)
            values = result.values[0].logprobs
        padded = [-1.0] * (len(ids) - len(values)) + list(values)
        rows = [None, *({str(i): {"logprob": p, "rank": 1}} for i, p in list(zip(ids, padded, strict=True))[1:])]
        choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": rows}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
        await reply.json({"choices": [choice], "usage": usage})

    async def _answer(self, body: dict[str, Any], chat: Chat, prefix: Prefix | None, reply: Reply, **how: bool) -> None:
        chat = replace(chat, sampling=sampling_of(body), tools=tools_of(body), format=format_of(body))
        if body.get("tools"):
            chat = replace(chat, tool_choice=choice_of(body.get("tool_choice", "auto")))
        want = ("logprobs", "tokens") if body.get("logprobs") is not None else ("tokens",)
        op = Generate(chat, body.get("n", 1), prefix, want)
        if not body.get("stream"):
            await self._whole(op, reply)
            return
        writer = Writer(reply, body, op, **how)
        send, receive = anyio.create_memory_object_stream[Delta](math.inf)

        async def produce() -> None:
            with send:
                try:
                    result = await self.engine.perform(op, Span("up#1", live=send.send_nowait))
                    writer.finished = list(getattr(result, "drafts", ()))
                except StropError as failure:
                    writer.failure = failure

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            with receive:
                async for delta in receive:
                    await writer.delta(delta)
        await writer.close()

    async def _whole(self, op: Generate, reply: Reply) -> None:
        result = await self.engine.perform(op, Span("up#1"))
        choices = [
            {"index": i, "text": d.text, "message": {"content": d.text}, "finish_reason": d.finish}
            for i, d in enumerate(getattr(result, "drafts", ()))
        ]
        await reply.json({"choices": choices})


class Writer:
    """Chunks in vLLM's form: usage of the chunk's draft with every chunk, token ids when asked for."""

    def __init__(self, reply: Reply, body: dict[str, Any], op: Generate, *, raw: bool = False) -> None:
        self.reply, self.body, self.op, self.raw = reply, body, op, raw
        self.finished: list[Draft] = []
        self.failure: StropError | None = None
        self.prompt = 0
        self.done = [0] * op.n
        self.started = False

    async def delta(self, delta: Delta) -> None:
        words, tokens = delta.text, delta.tokens
        if not self.done[delta.index] and self.op.prefix:
            words = words.removeprefix(self.op.prefix.draft.text)
        self.done[delta.index] += len(tokens)
        await self.chunk(delta.index, words, tokens)

    async def chunk(self, index: int, words: str, tokens: Tokens, **more: Any) -> None:
        if not self.started:
            self.started = True
            self.prompt = count(self.op)
            await self.reply.events()
        said: dict[str, Any] = {"text": words} if self.raw else {"delta": more.pop("delta", {"content": words})}
        if self.body.get("return_token_ids"):
            said["token_ids"] = list(tokens.ids)
        if self.body.get("logprobs") is not None and len(tokens):
            said["logprobs"] = self.logprobs(tokens)
        chunk = {"choices": [{"index": index, "finish_reason": None, **said, **more}]}
        options = self.body.get("stream_options") or {}
        if options.get("continuous_usage_stats"):
            chunk["usage"] = self.usage(self.done[index])  # type: ignore[assignment]
        await self.reply.event(chunk)

    def logprobs(self, tokens: Tokens) -> dict[str, Any]:
        top = tokens.top or ((),) * len(tokens)
        rows = list(zip(tokens.texts, tokens.logprobs, top, strict=True))
        if self.raw:
            listed = [{text: p for _, text, p in row} for _, _, row in rows]
            return {"tokens": list(tokens.texts), "token_logprobs": list(tokens.logprobs), "top_logprobs": listed}
        return {
            "content": [
                {"token": t, "logprob": p, "top_logprobs": [{"token": o, "logprob": q} for _, o, q in row]}
                for t, p, row in rows
            ]
        }

    def usage(self, completion: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": completion,
            "total_tokens": self.prompt + completion,
        }

    async def close(self) -> None:
        if self.failure is not None:
            await self.fail(self.failure)
            return
        for index, draft in enumerate(self.finished):
            calls = [
                {"index": i, "id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for i, c in enumerate(draft.tool_calls)
            ]
            rest = draft.tokens[draft.n_tokens - (draft.n_tokens - self.done[index]) :] if calls else Tokens()
            self.done[index] += len(rest)
            more: dict[str, Any] = {"delta": {"tool_calls": calls}} if calls else {}
            await self.chunk(index, "", rest, finish_reason=draft.finish, stop_reason=draft.stop_reason, **more)
        if (self.body.get("stream_options") or {}).get("include_usage"):
            await self.reply.event({"choices": [], "usage": self.usage(sum(self.done))})
        await self.reply.done()

    async def fail(self, failure: StropError) -> None:
        """A status before the first chunk, an error event after it, as vLLM does."""
        status = 400 if isinstance(failure, BadRequest) else 503 if isinstance(failure, EngineOverloaded) else 500
        if not self.started:
            await refuse(self.reply, str(failure), status)
            return
        await self.reply.event({"error": {"message": str(failure), "type": "x", "param": None, "code": status}})
        await self.reply.done()


async def refuse(reply: Reply, message: str, status: int = 400) -> None:
    await reply.json({"error": {"message": message, "type": "x", "param": None, "code": status}}, status)


def count(op: Generate) -> int:
    before = op.prefix.draft.text if op.prefix else ""
    text = op.chat.prompt if isinstance(op.chat.prompt, str) else templated(op.chat.messages) + "<|assistant|>"
    return len(ids_of(text + before))


def templated(messages: tuple[Message, ...]) -> str:
    return "".join(f"<|{m.role}|>{m.content}" for m in messages)


def messages_of(body: dict[str, Any]) -> tuple[Message, ...]:
    return tuple(
        Message(
            m["role"],
            m.get("content") or "",
            tuple(
                ToolCall(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in m.get("tool_calls", ())
            ),
            m.get("tool_call_id"),
        )
        for m in body["messages"]
    )


def tools_of(body: dict[str, Any]) -> tuple[Tool, ...]:
    listed = (tool["function"] for tool in body.get("tools") or ())
    return tuple(Tool(f["name"], f["description"], f["parameters"]) for f in listed)


def choice_of(sent: Any) -> ToolChoice:
    return ToolChoice("named", sent["function"]["name"]) if isinstance(sent, dict) else ToolChoice(sent)


def format_of(body: dict[str, Any]) -> Format:
    sent = body.get("response_format") or {"type": "text"}
    schema = sent.get("json_schema") or {}
    return Format(sent["type"], schema.get("name"), schema.get("schema"), schema.get("strict", False))


def sampling_of(body: dict[str, Any]) -> Sampling:
    same = ("temperature", "top_p", "top_k", "min_p", "max_tokens", "min_tokens", "seed", "ignore_eos")
    given: dict[str, Any] = {name: body[name] for name in same if name in body}
    top = body.get("top_logprobs") or (body["logprobs"] if type(body.get("logprobs")) is int else 0)
    return Sampling(
        **given,
        stop=tuple(body.get("stop", ())),
        stop_token_ids=tuple(body.get("stop_token_ids", ())),
        logit_bias=tuple((int(i), b) for i, b in body.get("logit_bias", {}).items()),
        top_logprobs=top,
    )
