"""Judges: a language model, in a fresh context, says how good answers are.

The judge sees only the question and the candidates, each behind the request's random fence; never the critique or the
dialogue that led to them (a judge that shares the author's context rewards its own taste; arXiv 2407.04549).
With an engine that reports top logprobs the verdict is a label probability (GenRM, arXiv 2408.15240); otherwise it is a
written verdict in a fixed form. What cannot be read is None, never a score.
"""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex

from strop.server.scoring.labels import probability
from strop.strategies.kit.capabilities import Capabilities, Capability
from strop.strategies.kit.context import Perform
from strop.strategies.kit.errors import ScorerError
from strop.strategies.kit.fan import fan_out
from strop.strategies.kit.ops import Generate, Generated, Score, Scored
from strop.strategies.kit.parse import score
from strop.strategies.kit.prompts import prompt
from strop.strategies.kit.span import Span, mix
from strop.strategies.kit.types import Draft, Sampling

PACKAGE = "strop.server.scoring"
RIVALS = 2
"""In a pairwise comparison of more than three drafts, each meets this many others in both orders."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A random word for the prompts of one scoring op; fixed when the request is seeded, so that it can be repeated."""

    fence: str

    @classmethod
    def of(cls, span: Span) -> Fence:
        """The fence of an op."""
        return cls(token_hex(8) if span.seed is None else f"{mix(span.seed, 'fence'):08x}")


async def judge(op: Score, span: Span, below: Perform, can: Capabilities) -> Scored:
    """One value per draft: P(correct) in [0, 1], or a written score from 1 to 10 as (score - 1) / 9.

    Cost: one call per draft; one generated token with label probabilities, at most 32 without.
    """
    fence = Fence.of(span)
    labels = Capability.TOP_LOGPROBS in can.offers
    section = "correct" if labels else "score"
    question = op.chat.transcript()
    places = [span.child(f"judge[{i}]") for i in range(len(op.drafts))]

    async def one(i: int) -> tuple[float | None, str]:
        chat = prompt(
            fence,
            f"judge/{section}",
            package=PACKAGE,
            sampling=_sampling(labels),
            question=question,
            candidate=shown(op.drafts[i]),
        )
        verdict = await _ask(below, Generate(chat, model="judge"), places[i])
        if labels:
            return probability(verdict, ("yes",), ("no",)), verdict.text
        written = score(verdict.text, 1, 10)
        return None if written is None else (written - 1) / 9, verdict.text

    verdicts = await fan_out(one, len(op.drafts))
    return Scored(tuple(v for v, _ in verdicts), tuple(note for _, note in verdicts), span.receipt.usage)


async def pairwise(op: Score, span: Span, below: Perform, can: Capabilities) -> Scored:
    """One value per draft: the mean probability, in [0, 1], of being preferred to the others it met.

    Each pair is asked in both orders, which cancels position bias. Cost: n(n-1) calls up to three drafts, then 4n.
    """
    fence = Fence.of(span)
    labels = Capability.TOP_LOGPROBS in can.offers
    question = op.chat.transcript()
    meetings = pairings(len(op.drafts))
    places = [span.child(f"pair[{i},{j}]") for i, j in meetings]

    async def one(k: int) -> float | None:
        first, second = meetings[k]
        chat = prompt(
            fence,
            "judge/prefer",
            package=PACKAGE,
            sampling=_sampling(labels),
            question=question,
            first=shown(op.drafts[first]),
            second=shown(op.drafts[second]),
        )
        verdict = await _ask(below, Generate(chat, model="judge"), places[k])
        if labels:
            return probability(verdict, ("a",), ("b",))
        letter = verdict.text.strip().strip(".*'\"").upper()
        return {"A": 1.0, "B": 0.0}.get(letter[:1]) if len(letter) <= 2 else None

    first_wins = await fan_out(one, len(meetings))
    wins: list[list[float]] = [[] for _ in op.drafts]
    for (i, j), p in zip(meetings, first_wins, strict=True):
        if p is not None:
            wins[i].append(p)
            wins[j].append(1.0 - p)
    values = tuple(sum(w) / len(w) if w else None for w in wins)
    return Scored(values, (), span.receipt.usage)


def pairings(n: int) -> list[tuple[int, int]]:
    """Ordered pairs to compare: all of them up to three drafts, otherwise each with its next rivals on a ring."""
    if n <= 3:
        return [(i, j) for i in range(n) for j in range(n) if i != j]
    ring = [(i, (i + k) % n) for i in range(n) for k in range(1, RIVALS + 1)]
    return list(dict.fromkeys(pair for i, j in ring for pair in ((i, j), (j, i))))


def shown(draft: Draft) -> str:
    """A draft as a judge sees it: its text, or its tool calls."""
    calls = "\n".join(f"call {c.name}({c.arguments})" for c in draft.tool_calls)
    return "\n".join(part for part in (draft.text, calls) if part)


def _sampling(labels: bool) -> Sampling:
    return (
        Sampling(temperature=0.0, max_tokens=1, top_logprobs=20) if labels else Sampling(temperature=0.0, max_tokens=32)
    )


async def _ask(below: Perform, op: Generate, span: Span) -> Draft:
    result = await below(op, span)
    if not isinstance(result, Generated) or not result.drafts:
        raise ScorerError("the judge's engine returned no draft")
    return result.drafts[0]
