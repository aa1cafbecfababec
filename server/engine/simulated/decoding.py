"""From words to the tokens that decoding them would give: lengths, stops and biases are honoured here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from strop.server.engine.simulated.tokenizer import END, id_of, pieces, text_of
from strop.strategies.kit.types import Finish, Sampling
from strop.strategies.testing.brain import unit

_FILLER = (" and", " so", " on", ",")
_OTHERS = (" um", " er", " hm", " oh", " ah")
_BACKGROUND = 1e-4  # probability of a token that nothing speaks for


@dataclass(frozen=True, slots=True)
class Decoded:
    """New tokens of one draft, and why they ended."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    finish: Finish
    stop_reason: str | int | None = None

    def __len__(self) -> int:
        return len(self.texts)


def decode(text: str, sampling: Sampling, room: int, key: str, *, structured: bool = False) -> Decoded:
    """The tokens of `text` under `sampling`, at most `room` of them.

    * `logit_bias` is added in log space to a natural token's probability (0.7) and to a background of 1e-4 for the
      others, so -100 bans a token, +100 forces it everywhere, and values between do either now and then.
    * `min_tokens` and `ignore_eos` go on with filler words (blanks after JSON) where the model would have ended.
    * A stop string is cut out of the text with everything after it; a stop token id is not part of the text either.
      Neither counts within the first `min_tokens` tokens.
    """
    limit = room if sampling.max_tokens is None else min(room, sampling.max_tokens)
    texts = pieces(text)[: limit + 1]
    texts = _padded(texts, limit + 1 if sampling.ignore_eos else sampling.min_tokens, structured=structured)
    if sampling.logit_bias:
        texts = _biased(texts, sampling, key)
    more = len(texts) > limit
    texts, reason = _stopped(texts[:limit], sampling)
    return Decoded(tuple(map(id_of, texts)), tuple(texts), "length" if more and reason is None else "stop", reason)


def _padded(texts: list[str], least: int, *, structured: bool) -> list[str]:
    filler = (" ",) if structured else _FILLER
    return texts + [filler[i % len(filler)] for i in range(least - len(texts))]


def _biased(texts: list[str], sampling: Sampling, key: str) -> list[str]:
    """Replace tokens as the biases say; greedy decoding takes the likelier of two, sampling draws."""
    bias = {id_: value for id_, value in sampling.logit_bias if id_ != END}
    raised = sorted((id_ for id_, value in bias.items() if value > 0), key=lambda id_: (-bias[id_], id_))
    other = next((word for word in _OTHERS if bias.get(id_of(word), 0.0) >= 0), " …")

    def chosen(place: int, word: str) -> str:
        own = bias.get(id_of(word), 0.0)
        for id_ in raised if own < 100 else ():
            if _draw(_BACKGROUND, bias[id_] - max(own, 0.0), sampling, f"{key}/up{place}/{id_}"):
                return text_of(id_)
        return word if own >= 0 or _draw(0.7, own, sampling, f"{key}/down{place}") else other

    return [chosen(place, word) for place, word in enumerate(texts)]


def _draw(p: float, bias: float, sampling: Sampling, key: str) -> bool:
    odds = math.log(p / (1.0 - p)) + bias
    chance = 1.0 / (1.0 + math.exp(-max(min(odds, 700.0), -700.0)))
    return chance > (0.5 if sampling.temperature == 0 else unit(key))


def _stopped(texts: list[str], sampling: Sampling) -> tuple[list[str], str | int | None]:
    """What is left before the first stop, and which stop it was."""
    least = sampling.min_tokens
    if sampling.stop_token_ids:
        banned = set(sampling.stop_token_ids)
        at = next((i for i, word in enumerate(texts) if i >= least and id_of(word) in banned), None)
        if at is not None:
            kept, word = _stopped_by_text(texts[:at], sampling.stop, least)
            return kept, word or id_of(texts[at])
    return _stopped_by_text(texts, sampling.stop, least)


def _stopped_by_text(texts: list[str], stop: tuple[str, ...], least: int) -> tuple[list[str], str | None]:
    """Cut before the first stop string that ends after the first `least` tokens."""
    whole = "".join(texts)
    after = sum(map(len, texts[:least]))
    found = [(at, word) for word in stop if word and (at := whole.find(word, max(0, after - len(word) + 1))) >= 0]
    if not found:
        return texts, None
    end, word = min(found)
    kept: list[str] = []
    for text in texts:
        if end <= 0:
            break
        kept += [text] if len(text) <= end else pieces(text[:end])
        end -= len(text)
    return kept, word
