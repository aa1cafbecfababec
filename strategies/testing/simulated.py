"""Simulated: an engine and its scorers played by a `Brain`, for laws, load tests and demos without a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
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
from strop.strategies.kit.types import Draft, Logprob, Tokens, Usage, Verdict
from strop.strategies.testing.brain import Brain, shown, task_of, truth_of, unit
from strop.strategies.testing.columns import columns
from strop.strategies.testing.words import continued, count_prompt, tokens_of, words


class Simulated:
    """A `Perform` with the numbers of `Brain`; see there for the model.

    Draws depend on the brain's seed, the question, the draft's index, and the op's sampling seed (the span's key when
    it has none). At temperature 0 every draft of a chat is the same. `max_tokens`, `stop`, `n`, prefixes, tools and
    formats are honoured; words are tokens. Judging costs `verdict_tokens` generated tokens per judgement. `pace` is
    the time per generated word in seconds; words are then decoded one by one, so cancelling stops in the middle.
    """

    def __init__(
        self,
        skill: float = 0.6,
        taste: float = 0.8,
        *,
        spread: float = 0.0,
        focus: float = 1.0,
        rivals: int = 4,
        confidence: float = 0.9,
        insight: float = 0.3,
        fluency: float = 1.0,
        length: int = 40,
        seed: int = 0,
        truth: Callable[[str], str] = truth_of,
        verdict_tokens: int = 1,
        pace: float = 0.0,
    ) -> None:
        self.brain = Brain(skill, taste, spread, focus, rivals, confidence, insight, fluency, length, seed, truth)
        self._verdict_tokens = verdict_tokens
        self._pace = pace

    async def __call__(self, op: Op, span: Span) -> Result:
        match op:
            case Generate():
                return await self._generate(op, span)
            case Verify():
                await checkpoint()
                return Verified(tuple(self._verify(op, draft) for draft in op.drafts))
            case _:
                result = self._judge(op, span)
                span.receipt.own = result.usage
                await checkpoint()
                return result

    # ---- generating --------------------------------------------------------------------------------------------

    async def _generate(self, op: Generate, span: Span) -> Generated:
        whole = [self.draft(op, key_of(op, span, index), index) for index in range(op.n)]
        start = (op.prefix.draft.n_tokens if op.prefix else 0) + _inserted(op)
        done = [start] * op.n
        prompt = count_prompt(op.chat) + start

        def usage() -> Usage:
            generated = sum(done) - start * op.n
            return Usage(prompt, 0, generated, _inserted(op), op.n)

        span.receipt.own = usage()
        span.receipt.partials = lambda: [d.cut(n) for d, n in zip(whole, done, strict=True) if n]
        await checkpoint()
        watched = bool(self._pace) or span.live is not None
        for step in range(start, max(draft.n_tokens for draft in whole)) if watched else ():
            if self._pace:
                await anyio.sleep(self._pace)
            for index, draft in enumerate(whole):
                if step < draft.n_tokens:
                    done[index] = step + 1
                    if span.live is not None:
                        span.live(Delta(draft.tokens.texts[step], index, tokens=draft.tokens[step : step + 1]))
            if self._pace:
                span.receipt.own = usage()
        done = [draft.n_tokens for draft in whole]
        span.receipt.own = usage()
        return Generated(tuple(whole), span.receipt.own, prompt)

    def draft(self, op: Generate, key: str, index: int = 0) -> Draft:
        """One draft, complete, as `key` decides it."""
        sampling = op.chat.sampling
        calls = self.brain.calls(op.chat, key) if op.prefix is None else ()
        text = "" if calls else self.brain.say(op.chat, key, op.prefix)
        added = limited(text, sampling.max_tokens, sampling.stop)
        if calls:
            count = sum(len(words(call.name + " " + call.arguments)) for call in calls)
            count = min(count, sampling.max_tokens or count)
            return Draft("", "tool_calls", calls, Tokens((0,) * count, ("",) * count), count)
        draft = continued(op.prefix, added) if op.prefix else added
        right = self.brain.is_right(task_of(op.chat)[0], draft.text)
        return columns(draft, op, right, self.brain, f"{key}:{index}")

    # ---- judging -----------------------------------------------------------------------------------------------

    def _judge(self, op: Score | Steps | Logprobs, span: Span) -> Scored | Stepped | Weighed:
        question, key, brain = op.chat.question, span.key, self.brain
        texts = [shown(draft) for draft in ((op.draft,) if isinstance(op, Steps) else op.drafts)]
        keys = [f"{key}[{i}]" for i in range(len(texts))]
        read = sum(count_prompt(op.chat) + len(words(text)) for text in texts)
        if isinstance(op, Logprobs):
            values = tuple(self._likelihood(question, text, k) for text, k in zip(texts, keys, strict=True))
            return Weighed(values, Usage(prompt=read))
        if isinstance(op, Steps):
            steps = [step for step in texts[0].split("\n\n") if step.strip()]
            return Stepped(brain.rewards(question, steps, texts[0], key), tuple(steps), Usage(prompt=read))
        if op.by == "pairwise":
            return self._tournament(question, texts, key, read)
        cost = Usage(read, 0, self._verdict_tokens * len(texts), calls=len(texts))
        scores = (brain.score(question, text, k) for text, k in zip(texts, keys, strict=True))
        return Scored(tuple(scores), (), cost)

    def _tournament(self, question: str, texts: list[str], key: str, read: int) -> Scored:
        """Every pair meets once; a draft's value is the share of its meetings that it won (0.5 when it had none)."""
        wins = [0.0] * len(texts)
        for i in range(len(texts)):
            for j in range(i):
                wins[j if self.brain.prefers(question, texts[j], texts[i], f"{key}[{j},{i}]") else i] += 1.0
        rivals = len(texts) - 1
        meetings = len(texts) * rivals // 2
        cost = Usage(read * rivals, 0, self._verdict_tokens * meetings, calls=meetings)
        return Scored(tuple(won / rivals if rivals else 0.5 for won in wins), (), cost)

    def _likelihood(self, question: str, text: str, key: str) -> Logprob:
        pieces = words(text)
        level = 0.5 if self.brain.is_right(question, text) else 0.8
        return Logprob(tuple(-2 * level * unit(self.brain.seed, "weigh", key, i) for i in range(len(pieces))))

    def _verify(self, op: Verify, draft: Draft) -> Verdict:
        """JSON is parsed and required keys looked for; any other verifier is a program that knows the right answer."""
        if op.by in ("json_object", "json_schema"):
            return _json(draft.text, op.spec.get("schema") or {"type": "object"})
        right = self.brain.is_right(op.chat.question, shown(draft))
        return Verdict(right, "" if right else "expected " + self.brain.truth(op.chat.question))


def key_of(op: Generate, span: Span, index: int) -> str:
    """What decides a draft: nothing but the chat at temperature 0, else seed (or place) and index."""
    if op.chat.sampling.temperature == 0:
        return f"greedy:{op.chat.tag}"
    seed = op.chat.sampling.seed
    return f"{span.key if seed is None else seed}:{index}"


def limited(text: str, max_tokens: int | None = None, stop: tuple[str, ...] = ()) -> Draft:
    """A text as the draft that decoding it would give: cut before the first stop string, then at `max_tokens`."""
    found = min(((text.index(word), word) for word in stop if word and word in text), default=None)
    tokens = tokens_of(text[: found[0]] if found else text)
    if max_tokens is not None and len(tokens) > max_tokens:
        return Draft("".join(tokens.texts), "stop", (), tokens, len(tokens)).cut(max_tokens)
    return Draft("".join(tokens.texts), "stop", (), tokens, len(tokens), stop_reason=found[1] if found else None)


def _inserted(op: Generate) -> int:
    return len(words(op.prefix.inject)) if op.prefix else 0


def _json(text: str, schema: dict[str, Any]) -> Verdict:
    try:
        value = json.loads(text)
    except ValueError as invalid:
        return Verdict(False, f"not JSON: {invalid}")
    missing = [name for name in schema.get("required", ()) if not isinstance(value, dict) or name not in value]
    if missing or (schema.get("type") == "object" and not isinstance(value, dict)):
        return Verdict(False, f"lacks {', '.join(missing)}" if missing else "not a JSON object")
    return Verdict(True)
