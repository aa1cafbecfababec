"""Which of several drafts may win, which agree, and in which order they come: what selection strategies share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf

from strop.strategies.kit import json_text
from strop.strategies.kit.context import Context
from strop.strategies.kit.math_equal import group
from strop.strategies.kit.parse import Answer, canonical_call, extract
from strop.strategies.kit.types import Chat, Draft

HEAT = 0.8
"""Sampling temperature of strategies that need drafts to differ, when the client did not ask for one."""


def heat(question: Chat, knob: float | None) -> float:
    """The temperature for several drafts: the knob's, else the client's if it is above zero, else `HEAT`."""
    return knob if knob is not None else question.sampling.temperature or HEAT


def shown(draft: Draft) -> str:
    """A draft as a critic sees it: its text and its tool calls."""
    calls = "\n".join(f"call {call.name}({call.arguments})" for call in draft.tool_calls)
    return "\n".join(part for part in (draft.text, calls) if part)


async def valid(ctx: Context, question: Chat, drafts: Sequence[Draft]) -> list[bool]:
    """Whether each draft has the shape that the client asked for; without a format every draft that says anything.

    A turn that calls tools is no answer yet, so the format does not bind it.
    """
    said = [bool(draft.text.strip() or draft.tool_calls) for draft in drafts]
    wanted = question.format
    if wanted.kind == "text" or not any(said):
        return said
    spec = {"schema": wanted.schema} if wanted.kind == "json_schema" else {}
    verdicts = await ctx.verify(question, drafts, by=wanted.kind, **spec)
    return [bool(draft.tool_calls) or verdict.ok is True for draft, verdict in zip(drafts, verdicts, strict=True)]


async def agreement(question: Chat, drafts: Sequence[Draft]) -> list[int | None]:
    """A number per draft; drafts with the same number give the same answer, None gives none that can be compared.

    Tool calls agree when names and arguments do, JSON answers when their values do, other drafts when their final
    answers are the same, exactly or as mathematics.
    """
    answers = [None if structured(question, draft) else extract(draft.text) for draft in drafts]
    same = await group([None if answer is None else _comparable(answer) for answer in answers])
    keys = [
        answer_key(question, draft) if number is None else f"answer {number}"
        for draft, number in zip(drafts, same, strict=True)
    ]
    known: dict[str, int] = {}
    return [None if key is None else known.setdefault(key, len(known)) for key in keys]


def answer_key(question: Chat, draft: Draft) -> str | None:
    """What a draft answers, in one spelling: equal keys are equal answers. None when it cannot be read."""
    if draft.tool_calls:
        calls = [
            canonical_call(call.name, call.arguments) or f"{call.name} {call.arguments}" for call in draft.tool_calls
        ]
        return "calls " + "; ".join(sorted(calls))
    if structured(question, draft):
        return _json_key(draft.text)
    found = extract(draft.text)
    return None if found is None else f"{'json' if found.kind == 'json' else 'text'} {found.canonical}"


def _comparable(answer: Answer) -> str:
    return answer.canonical if answer.kind == "json" else answer.raw


def structured(question: Chat, draft: Draft) -> bool:
    """Whether the draft answers by tool calls or in the JSON that was asked for, not in words."""
    return bool(draft.tool_calls) or question.format.kind != "text"


def _json_key(text: str) -> str | None:
    try:
        return "json " + json_text.canonical(json_text.read(text))
    except ValueError:
        return None


@dataclass(frozen=True)
class Ballot:
    """Drafts in competition. `groups` tells which agree; `flaws` is 0 for drafts that may win before all others."""

    drafts: Sequence[Draft]
    groups: Sequence[int | None]
    flaws: Sequence[int]

    @classmethod
    async def of(cls, ctx: Context, question: Chat, drafts: Sequence[Draft]) -> Ballot:
        """Look at the drafts: an unfinished one ranks below the finished, one of the wrong shape below those."""
        fits = await valid(ctx, question, drafts)
        flaws = [2 * (not fit) + (draft.finish == "length") for fit, draft in zip(fits, drafts, strict=True)]
        return cls(drafts, await agreement(question, drafts), flaws)

    @property
    def voters(self) -> list[int]:
        """Drafts whose answer counts: the best kind there is, if their answer can be compared."""
        best = min(self.flaws, default=0)
        return [i for i, flaw in enumerate(self.flaws) if flaw == best and self.groups[i] is not None]

    def votes(self, weights: Sequence[float] | None = None) -> dict[int, float]:
        """Sum of weights (default: the number of voters) per group, first seen first."""
        total: dict[int, float] = {}
        for i in self.voters:
            name = self.groups[i]
            if name is not None:
                total[name] = total.get(name, 0.0) + (1.0 if weights is None else weights[i])
        return total

    def by_votes(self) -> list[int]:
        """Places of the drafts, best first: by votes, then by mean logprob where known; ties keep their order."""
        return self._order(self.votes(), [draft.mean_logprob for draft in self.drafts])

    def one_per_answer(self, order: Sequence[int]) -> list[int]:
        """The same places with the first of each answer before all others."""
        voters, first = set(self.voters), dict[int | None, int]()
        for i in order:
            if i in voters:
                first.setdefault(self.groups[i], i)
        return [*first.values(), *(i for i in order if i not in first.values())]

    def by_score(self, scores: Sequence[float | None], *, weighted: bool) -> list[int]:
        """Places of the drafts, best first: by the summed scores of their answer if `weighted`, then by own score.

        Drafts without a score come last among their kind and add nothing to their answer. Scores that can be negative
        are added up as exp(score), so that more support never hurts.
        """
        return self._order(self.votes(positive(scores)) if weighted else {}, scores)

    def _order(self, support: dict[int, float], scores: Sequence[float | None]) -> list[int]:
        def rank(i: int) -> tuple[float, ...]:
            name, score = self.groups[i], scores[i]
            backing = -inf if name is None else support.get(name, -inf)
            return self.flaws[i], -backing, inf if score is None else -score, i

        return sorted(range(len(self.drafts)), key=rank)


def positive(scores: Sequence[float | None]) -> list[float]:
    """Scores as weights >= 0: as they are, or relative to the best as exp(score - best) when one is negative."""
    known = [score for score in scores if score is not None]
    if min(known, default=0.0) >= 0.0:
        return [score or 0.0 for score in scores]
    best = max(known)
    return [0.0 if score is None else exp(score - best) for score in scores]
