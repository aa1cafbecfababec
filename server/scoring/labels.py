"""Read a verdict off label probabilities: how likely is each of two words as the next token.

A probability is finer than a written score, costs one token, and cannot be unparsable: when neither label is among the
likely tokens the answer is None, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp

from strop.strategies.kit.types import Draft

LEAST_MASS = 0.01
"""Labels that together get less probability than this are not an answer."""


def probability(draft: Draft, positive: Iterable[str], negative: Iterable[str]) -> float | None:
    """P(positive) / (P(positive) + P(negative)) at the first token that is one of the labels.

    Labels are compared without case and surrounding space or punctuation. Needs `draft.tokens.top`.
    """
    wanted = {word.lower() for word in positive}
    unwanted = {word.lower() for word in negative}
    for top in draft.tokens.top:
        yes = sum(exp(logprob) for _, text, logprob in top if _plain(text) in wanted)
        no = sum(exp(logprob) for _, text, logprob in top if _plain(text) in unwanted)
        if yes + no >= LEAST_MASS:
            return yes / (yes + no)
    return None


def _plain(token: str) -> str:
    return token.strip(" \n\t.,:;!*\"'()[]▁Ġ").lower()
