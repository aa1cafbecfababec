"""An engine under test, and the questions it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from strop.server.engine.base import Engine
from strop.strategies.kit.capabilities import Capability, needs
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Weighed
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Chat, Draft, Message, Sampling, Usage
from tests.server.engine.vllm.conftest import smollm2

QUESTIONS = (
    "What is the capital of France?",
    "Write two sentences about a dog and a cat who share a house by the sea.",
    "Count from one to ten in words.",
    "Name three colours.",
)
GREEDY = Sampling(temperature=0.0, max_tokens=32)
SEA = 1


def ask(question: int = SEA, sampling: Sampling = GREEDY, **more: Any) -> Chat:
    return Chat((Message("user", QUESTIONS[question]),), sampling, **more)


@dataclass
class Contracted:
    """An engine under test, with the checks that every op must pass."""

    engine: Engine

    async def generate(self, chat: Chat, span: Span | None = None, **more: Any) -> Generated:
        op = Generate(chat, **more)
        self.require(*needs(op))
        with anyio.fail_after(300):
            result = await self.engine.perform(op, span or Span("test", seed=1))
        assert isinstance(result, Generated)
        assert len(result.drafts) == op.n
        return result

    async def draft(self, chat: Chat, **more: Any) -> Draft:
        return (await self.generate(chat, **more)).drafts[0]

    async def weigh(self, chat: Chat, *drafts: Draft) -> Weighed:
        self.require(Capability.SCORE_TEXT)
        result = await self.engine.perform(Logprobs(chat, drafts), Span("test"))
        assert isinstance(result, Weighed)
        return result

    def require(self, *wanted: Capability) -> None:
        for capability in wanted:
            if capability not in self.engine.capabilities.offers:
                pytest.skip(f"no {capability}: {self.engine.capabilities.why_not(capability)}")

    def total(self) -> Usage:
        c = self.engine.counters()
        return Usage(prompt=c.prompt, cached=c.cached, completion=c.completion)


def billed(*bills: Usage) -> Usage:
    total = sum(bills, Usage())
    return Usage(prompt=total.prompt, cached=total.cached, completion=total.completion)


def prompt_ids(chat: Chat) -> tuple[int, ...]:
    from transformers import AutoTokenizer

    from strop.server.engine.chat.template import ChatTemplate
    from strop.server.engine.vllm.instance import Tongue

    template = ChatTemplate(Tongue(AutoTokenizer.from_pretrained(smollm2()), True, ()))
    return template.ids([{"role": m.role, "content": m.content} for m in chat.messages])
