"""What one request cost, gathered from its events: OpenAI's usage block and the `strop` object are made from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NotRequired

from typing_extensions import TypedDict

from strop.server.api.wire.strop import StropAnswer, wire_bill
from strop.server.service import Ask, Service
from strop.strategies.kit.events import Bill, Event, Finished, Observer, OpDone, Outcome, Started
from strop.strategies.kit.ops import Generate, Generated, Logprobs
from strop.strategies.kit.trace import Trace
from strop.strategies.kit.types import Chat


class PromptDetails(TypedDict):
    """Part of the client's prompt that was certainly read from a cache filled by earlier requests."""

    cached_tokens: int


class CompletionDetails(TypedDict):
    """Generated tokens that are not in the answer: other drafts, critiques, verdicts."""

    reasoning_tokens: int


class Usage(TypedDict):
    """OpenAI's usage block. The client's prompt counts once; everything generated counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[PromptDetails]
    completion_tokens_details: NotRequired[CompletionDetails]


class Prompt(NamedTuple):
    """The client's prompt as one op saw it. The smallest is the most faithful: see `Ledger._weigh`."""

    rewritten: bool
    hidden: bool
    failed: bool
    tokens: int
    cached: int


class Ledger:
    """An observer of one request.

    `prompt_tokens` is the length of the client's own prompt: that of an op which asked the client's question as it
    was, else the shortest prompt of an op whose drafts could be served, else the shortest of all.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.knobs: dict[str, object] = {}
        self.bill = Bill()
        self.settled = 0
        self._question: Chat | None = None
        self._prompt: Prompt | None = None
        self._trace = Trace() if ask.selection.trace else None

    def __call__(self, event: Event) -> None:
        if self._trace is not None:
            self._trace(event)
        match event:
            case Started(knobs=knobs, question=question):
                self.knobs, self._question = knobs, question
            case OpDone():
                self.settled += event.usage.completion + event.usage.injected
                self._weigh(event)
            case Finished(outcome=outcome):
                self.bill = outcome.bill

    @property
    def spent(self) -> bool:
        """Whether an engine generated anything: a client should not pay for that twice."""
        return self.bill.total.completion > 0

    async def answer(self, service: Service, observe: Sequence[Observer] = ()) -> Outcome:
        """Run the request; see `Service.answer`."""
        return await service.answer(self.ask, [self, *observe])

    def usage(self, outcome: Outcome) -> Usage:
        """The final usage block."""
        generated = self.bill.total.completion + self.bill.total.injected
        served = sum(answer.n_tokens for answer in outcome.answers)
        return self._usage(generated, hidden=max(0, generated - served))

    def usage_so_far(self, live: int) -> Usage:
        """A running usage block; `live` tokens of an unfinished op were already streamed."""
        return self._usage(max(self.settled, live), hidden=None)

    def strop(self, outcome: Outcome) -> StropAnswer:
        """The response's `strop` object."""
        selection = self.ask.selection
        answer: StropAnswer = {
            "strategy": selection.strategy.name,
            "knobs": dict(self.knobs),
            "selected_by": selection.source,
            "stopped": outcome.stopped,
            "trace_id": self.ask.id,
            "bill": wire_bill(outcome.bill),
        }
        if selection.preset:
            answer["preset"] = selection.preset
        if outcome.degraded:
            answer["degraded"] = outcome.degraded
        if self._trace is not None:
            answer["trace"] = self._trace.dump()
        return answer

    def _weigh(self, done: OpDone) -> None:
        if isinstance(done.op, Logprobs):
            self._seen(Prompt(True, True, done.error is not None, done.usage.prompt, done.usage.cached))
        if not isinstance(done.op, Generate) or done.usage.calls == 0:
            return
        chat, question = done.op.chat, self._question
        said = done.result.prompt_tokens if isinstance(done.result, Generated) else 0
        tokens = said or done.usage.prompt
        same = (
            question is not None
            and done.op.prefix is None
            and chat.messages == question.messages
            and chat.prompt == question.prompt
        )
        cached = min(tokens, done.usage.cached)
        self._seen(Prompt(not same, not chat.answers, done.error is not None, tokens, cached))

    def _seen(self, seen: Prompt) -> None:
        if self._prompt is None or seen < self._prompt:
            self._prompt = seen

    def _usage(self, generated: int, *, hidden: int | None) -> Usage:
        tokens = self._prompt.tokens if self._prompt else 0
        usage: Usage = {
            "prompt_tokens": tokens,
            "completion_tokens": generated,
            "total_tokens": tokens + generated,
        }
        if hidden is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self._prompt.cached if self._prompt else 0}
            usage["completion_tokens_details"] = {"reasoning_tokens": hidden}
        return usage
