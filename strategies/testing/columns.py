"""Logprobs, entropies and certainties of simulated drafts: right drafts tend to be surer."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

from strop.strategies.kit.ops import Generate
from strop.strategies.kit.types import Draft
from strop.strategies.testing.brain import Brain, unit
from strop.strategies.testing.words import word_id

_NORMAL = NormalDist()


def columns(draft: Draft, op: Generate, right: bool, brain: Brain, key: str) -> Draft:
    """The draft with the columns that the op wants.

    A draft has one sureness, normal with standard deviation 1, higher for right drafts so that it tells right from
    wrong with probability `taste`. It shifts the mean logprob by 0.1 nats, the mean certainty by 0.5 nats.
    """
    top = op.chat.sampling.top_logprobs
    wanted = {*op.want, *(("logprobs", "top") if top else ())}
    if not wanted & {"logprobs", "entropy", "certainty", "top"}:
        return draft
    gap = math.sqrt(2.0) * _NORMAL.inv_cdf(min(max(brain.taste, 0.5), 0.9999))
    sure = _NORMAL.inv_cdf(min(max(unit(brain.seed, "sure", key, draft.text), 1e-9), 1 - 1e-9)) + (
        gap if right else 0.0
    )
    level = 0.6 * math.exp(-0.15 * sure)
    noise = [0.5 + unit(brain.seed, "noise", key, i) for i in range(len(draft.tokens))]
    logprobs = tuple(-level * n for n in noise)
    return replace(
        draft,
        tokens=replace(
            draft.tokens,
            logprobs=logprobs if "logprobs" in wanted else (),
            entropies=tuple(1.2 * level * n for n in noise) if "entropy" in wanted else (),
            certainties=tuple(8.0 + 0.5 * sure + (n - 1.0) for n in noise) if "certainty" in wanted else (),
            top=tuple(
                _alternatives(text, logprob, top) for text, logprob in zip(draft.tokens.texts, logprobs, strict=True)
            )
            if top
            else (),
        ),
    )


def _alternatives(text: str, logprob: float, count: int) -> tuple[tuple[int, str, float], ...]:
    """The chosen word and, with most of the rest of the probability, words that a judge might have said instead."""
    others = [word for word in ("Yes", "No", "A", "B") if word != text.strip()][: count - 1]
    rest = math.log(max(1e-9, 1.0 - math.exp(logprob)) / max(1, len(others)))
    found = [(word_id(text), text, logprob), *((word_id(word), word, rest) for word in others)]
    return tuple(sorted(found, key=lambda entry: -entry[2]))
