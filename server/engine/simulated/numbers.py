"""Logprobs, entropies and certainties of simulated tokens, all taken from one made-up distribution per token.

The chosen token has probability p; the rest, 1 - p, is halved from alternative to alternative (19 of them), and what
is left after the last is spread evenly over the other tokens of the vocabulary. p depends on the chat, the place, the
token, and on how sure the model is of this answer: right answers are surer, and a draft's mean logprob (or certainty)
tells right from wrong with probability `taste`. The numbers depend on chat and text alone, so scoring a text later
gives what generating it gave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from strop.server.engine.simulated.tokenizer import VOCABULARY, id_of
from strop.strategies.kit.types import Tokens
from strop.strategies.testing.brain import Brain, said, unit

_NORMAL = NormalDist()
_HALVES = 19
_LEFT = 2.0**-_HALVES
_LOG2 = math.log(2.0)
_REST = VOCABULARY - 1 - _HALVES
_SUM_K2K = sum(k * 2.0**-k for k in range(1, _HALVES + 1))
_COMMON = "the a of and to is in it so we not one 1 2 3 as by or if no an at on be"
_WORDS = tuple(f" {word}" for word in _COMMON.split())
_OPPOSITES = {"Yes": "No", "No": "Yes", "A": "B", "B": "A"}

Top = tuple[tuple[int, str, float], ...]


@dataclass(frozen=True, slots=True)
class Mind:
    """How sure the model is of one answer to one chat."""

    chat: str
    level: float

    def probability(self, place: int, id_: int) -> float:
        """Of the chosen token, which is always the likeliest: more than a third."""
        draw = ((id_ * 2_654_435_761 + place * 40_503) ^ int(self.chat, 16)) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        return max(math.exp(-self.level * (0.5 + draw / 2.0**64)), 0.34)


def mind(brain: Brain, chat: str, question: str, text: str) -> Mind:
    """`chat` is the digest of the conversation, `text` the whole turn."""
    gap = math.sqrt(2.0) * _NORMAL.inv_cdf(min(max(brain.taste, 0.5), 0.9999))
    draw = min(max(unit(brain.seed, "sure", chat, said(text)), 1e-9), 1 - 1e-9)
    sure = _NORMAL.inv_cdf(draw) + (gap if brain.is_right(question, text) else 0.0)
    return Mind(chat, 0.6 * math.exp(-0.15 * sure))


def columns(tokens: Tokens, first: int, by: Mind, want: frozenset[str], top: int) -> Tokens:
    """`tokens` with the wanted columns; `first` is the place of its first token in the turn."""
    ps = [by.probability(first + i, id_) for i, id_ in enumerate(tokens.ids)]
    logs = tuple(map(math.log, ps))
    return Tokens(
        tokens.ids,
        tokens.texts,
        logs if top or want & {"logprobs", "top_logprobs"} else (),
        tuple(map(entropy, ps)) if "entropy" in want else (),
        tuple(map(certainty, ps)) if "certainty" in want else (),
        tuple(alternatives(*row, top) for row in zip(tokens.ids, tokens.texts, ps, strict=True)) if top else (),
    )


def entropy(p: float) -> float:
    """Of the distribution (nats)."""
    rest = 1.0 - p
    if rest <= 0.0:
        return 0.0
    halves = -rest * ((1.0 - _LEFT) * math.log(rest) - _LOG2 * _SUM_K2K)
    return -p * math.log(p) + halves - rest * _LEFT * math.log(rest * _LEFT / _REST)


def certainty(p: float) -> float:
    """Mean of -log probability over the vocabulary, minus its log size (nats)."""
    rest = max(1.0 - p, 1e-12)
    halves = _HALVES * math.log(rest) - _LOG2 * _HALVES * (_HALVES + 1) / 2
    tail = _REST * math.log(rest * _LEFT / _REST)
    return -(math.log(p) + halves + tail) / VOCABULARY - math.log(VOCABULARY)


def alternatives(id_: int, text: str, p: float, count: int) -> Top:
    """The `count` likeliest tokens, best first, the chosen one always among them. "No" competes with "Yes"."""
    words = [word for word in (_OPPOSITES.get(text.strip(), " ..."), *_WORDS) if word != text]
    turn = id_ % (len(words) - 1)
    ordered = [words[0], *words[1 + turn :], *words[1 : 1 + turn]][: count - 1]
    listed = [(id_of(word), word, math.log((1.0 - p) * 2.0**-k)) for k, word in enumerate(ordered, 1)]
    return tuple(sorted([(id_, text, math.log(p)), *listed], key=lambda entry: -entry[2]))
