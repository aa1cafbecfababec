"""Scripted: an engine that says what the test wrote down."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anyio.lowlevel import checkpoint

from strop.strategies.kit.ops import (
    Generate,
    Generated,
    Logprobs,
    Op,
    Result,
    Score,
    Scored,
    Stepped,
    Steps,
    Verified,
    Verify,
    Weighed,
)
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.types import Draft, Logprob, Usage, Verdict
from strop.strategies.testing.words import continued, count_prompt, tokens_of

Reply = str | Draft | Exception | float | bool | None | Verdict | Logprob | Sequence[Any] | Callable[[Op], Any]


class Scripted:
    """A `Perform` whose replies are keyed by tag: the phase of a Generate, the scorer or verifier of other ops.

    Replies of one tag are used in order, whatever the other tags do, so concurrency cannot shuffle a test:

    * Generate: one text or `Draft` per draft. With a prefix, the reply is only what follows it.
    * Score: one list of values per op. Steps: one list of rewards per op.
    * Verify: one list of `Verdict` or bool per op. Logprobs: one list of `Logprob` or totals per op.

    A reply that can be called is given the op; one that is an exception is raised. A reply list that is a function
    itself answers every op of that tag. A tag without a (further) reply fails with the span's key and the op.
    `asked` holds every op in order, `keys` their places.
    """

    def __init__(self, replies: Mapping[str, Iterable[Reply] | Callable[[Op], Any]]) -> None:
        self.asked: list[Op] = []
        self.keys: list[str] = []
        self._always = {tag: reply for tag, reply in replies.items() if callable(reply)}
        self._script = {tag: deque(reply) for tag, reply in replies.items() if not callable(reply)}

    @property
    def tags(self) -> list[str]:
        """The tags of all ops, in the order asked."""
        return [op.tag for op in self.asked]

    def unused(self) -> dict[str, int]:
        """How many replies of which tag nobody asked for."""
        return {tag: len(replies) for tag, replies in self._script.items() if replies}

    async def __call__(self, op: Op, span: Span) -> Result:
        self.asked.append(op)
        self.keys.append(span.key)
        result = self._answer(op, span)
        if isinstance(result, Generated):
            span.receipt.partials = lambda: result.drafts
        span.receipt.own = result.usage
        await checkpoint()
        return result

    def _answer(self, op: Op, span: Span) -> Result:
        match op:
            case Generate():
                return self._generate(op, span)
            case Score():
                return Scored(tuple(self._next(op, span)), usage=_read_by_scorer(op))
            case Steps():
                return Stepped(tuple(self._next(op, span)), usage=_read_by_scorer(op))
            case Logprobs():
                values = (v if isinstance(v, Logprob) else Logprob((float(v),)) for v in self._next(op, span))
                return Weighed(tuple(values), usage=_read_by_scorer(op))
            case Verify():
                verdicts = (v if isinstance(v, Verdict) else Verdict(v) for v in self._next(op, span))
                return Verified(tuple(verdicts))

    def _generate(self, op: Generate, span: Span) -> Generated:
        drafts = tuple(self._draft(op, span) for _ in range(op.n))
        before = op.prefix.draft.n_tokens if op.prefix else 0
        for index, draft in enumerate(drafts):
            if span.live is not None:
                known = op.prefix.draft.text + op.prefix.inject if op.prefix else ""
                span.live(Delta(draft.text[len(known) :], index))
        inserted = drafts[0].n_injected - (op.prefix.draft.n_injected if op.prefix else 0)
        prompt = count_prompt(op.chat) + before + inserted
        usage = Usage(
            prompt=prompt,
            completion=sum(d.n_tokens - before - inserted for d in drafts),
            injected=inserted,
            calls=len(drafts),
        )
        return Generated(drafts, usage, prompt)

    def _draft(self, op: Generate, span: Span) -> Draft:
        reply = self._next(op, span)
        draft = reply if isinstance(reply, Draft) else Draft(str(reply))
        if not len(draft.tokens) and not draft.n_tokens:
            tokens = tokens_of(draft.text)
            draft = replace(draft, tokens=tokens, n_tokens=len(tokens))
        limit = op.chat.sampling.max_tokens
        if limit is not None and len(draft.tokens) > limit:
            draft = draft.cut(limit)
        return continued(op.prefix, draft) if op.prefix else draft

    def _next(self, op: Op, span: Span) -> Any:
        if op.tag in self._always:
            reply: Any = self._always[op.tag]
        elif self._script.get(op.tag):
            reply = self._script[op.tag].popleft()
        else:
            scripted = sorted({*self._script, *self._always})
            raise AssertionError(f"no reply left for '{op.tag}' at {span.key}; scripted tags: {scripted}; op: {op}")
        if callable(reply):
            reply = reply(op)
        if isinstance(reply, Exception):
            raise reply
        return reply


def _read_by_scorer(op: Score | Steps | Logprobs) -> Usage:
    """A scorer reads the conversation and the draft; the words are prompt, nothing is generated."""
    drafts = (op.draft,) if isinstance(op, Steps) else op.drafts
    return Usage(prompt=sum(count_prompt(op.chat) + draft.n_tokens for draft in drafts))
