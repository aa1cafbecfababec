"""From logits to tokens, for a whole batch whose rows want different things.

Numbers reported (logprob, entropy, certainty, top) describe the model: natural log, temperature 1, before any
processor. Processors then act in this order: penalties, logit bias, grammar, minimum length, temperature, min-p, top-k,
top-p. A row draws one uniform number per token from its own generator and inverts its own distribution, so what it
samples does not depend on the rest of the batch. Shapes: B rows, V vocabulary, K kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from strop.server.engine.chat.types import TokenRequest, TopToken

WIDTHS = (256, 4096)  # how many candidates top-k and top-p look at before they sort the whole vocabulary


@dataclass(slots=True)
class RowSampling:
    """How one draft samples, and what it must remember to do so. `enders` are the ids `min_tokens` holds back."""

    request: TokenRequest
    random: Random
    enders: tuple[int, ...] = ()
    allowed: Tensor | None = None  # bool [V]: what the grammar permits next
    counts: Counter[int] = field(default_factory=Counter)
    made: int = 0

    @classmethod
    def of(cls, request: TokenRequest, seed: int, index: int, eos_ids: Iterable[int]) -> RowSampling:
        """For draft `index` of a request whose seed is `seed`."""
        return cls(request, Random(f"{seed}/{index}"), (*eos_ids, *request.stop_token_ids))

    def remember(self, token: int) -> None:
        """Count a generated token."""
        self.counts[token] += 1
        self.made += 1


@dataclass(frozen=True, slots=True)
class Sampled:
    """One row's next token. With `error` set the other fields mean nothing."""

    id: int
    logprob: float
    entropy: float
    certainty: float
    top: tuple[TopToken, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class RowStats:
    """Of logits [B, V]: logprobs [B, V], entropy [B], certainty [B] and which rows are numbers at all [B]."""

    logprobs: Tensor
    entropy: Tensor
    certainty: Tensor
    sound: Tensor


def row_stats(logits: Tensor) -> RowStats:
    """Statistics at temperature 1 in float32; a -inf logit is probability 0. Unsound rows are taken as zeros."""
    sound = torch.logsumexp(logits, -1).isfinite()
    logprobs = torch.where(sound[:, None], logits, 0.0).log_softmax(-1)
    entropy = torch.special.entr(logprobs.exp()).sum(-1)
    certainty = -logprobs.mean(-1) - math.log(logits.shape[-1])
    return RowStats(logprobs, entropy, certainty, sound)


def sample(logits: Tensor, rows: Sequence[RowSampling]) -> list[Sampled]:
    """Next token of every row from raw float32 logits [B, V]."""
    stats = row_stats(logits)
    scores = torch.where(stats.sound[:, None], logits, 0.0)
    for score, row in zip(scores, rows, strict=True):
        process(score, row)
    possible = scores.amax(-1) > -torch.inf
    scores[~possible] = 0.0
    ids = _choose(scores, rows)
    chosen = stats.logprobs.gather(-1, ids[:, None])[:, 0]
    columns = zip(
        ids.tolist(),
        chosen.tolist(),
        stats.entropy.tolist(),
        stats.certainty.tolist(),
        _top(stats.logprobs, rows),
        [_error(*flags) for flags in zip(stats.sound.tolist(), possible.tolist(), strict=True)],
        strict=True,
    )
    return [Sampled(*column) for column in columns]


def process(score: Tensor, row: RowSampling) -> None:
    """Edit one row of raw logits [V] in place: penalties, bias, grammar, minimum length.

    Repetition divides positive logits and multiplies negative ones (CTRL, arXiv 1909.05858), the other two subtract
    presence + frequency * times used (OpenAI).
    """
    request = row.request
    if request.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*request.prompt_ids, *row.counts}), device=score.device)
        old = score[seen]
        score[seen] = torch.where(old > 0, old / request.repetition_penalty, old * request.repetition_penalty)
    if row.counts and (request.presence_penalty or request.frequency_penalty):
        used = torch.tensor(list(row.counts), device=score.device)
        times = torch.tensor(list(row.counts.values()), device=score.device, dtype=score.dtype)
        score[used] -= request.presence_penalty + request.frequency_penalty * times
    if request.logit_bias:
        ids, values = zip(*request.logit_bias, strict=True)
        score[torch.tensor(ids, device=score.device)] += torch.tensor(values, device=score.device)
    if row.allowed is not None:
        score.masked_fill_(~row.allowed.to(score.device), -torch.inf)
    if row.made < request.min_tokens:
        _hold_back(score, row)


def _hold_back(score: Tensor, row: RowSampling) -> None:
    """Forbid the ending tokens, unless nothing else is left."""
    enders = torch.tensor(row.enders, dtype=torch.long, device=score.device)
    before = score[enders]
    score[enders] = -torch.inf
    if not bool((score > -torch.inf).any()):
        score[enders] = before


def _choose(scores: Tensor, rows: Sequence[RowSampling]) -> Tensor:
    """Ids [B]: argmax where the temperature is 0, else one draw."""
    ids = scores.argmax(-1)
    drawing = [i for i, row in enumerate(rows) if row.request.temperature > 0]
    if not drawing:
        return ids
    heat = torch.tensor([rows[i].request.temperature for i in drawing], device=scores.device)
    scaled = scores[drawing]
    scaled = (scaled - scaled.amax(-1, keepdim=True)) / heat[
        :, None
    ]  # shifted first: a tiny temperature cannot overflow
    _truncate(scaled, [rows[i].request for i in drawing])
    mass = scaled.softmax(-1).double().cumsum(-1)
    uniform = torch.tensor([rows[i].random.random() for i in drawing], dtype=torch.float64, device=scores.device)
    total = mass[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    ids[drawing] = torch.searchsorted(mass, target[:, None], right=True)[:, 0]
    return ids


def _truncate(scores: Tensor, requests: Sequence[TokenRequest]) -> None:
    """Min-p, then top-k, then top-p on rows [B, V], in place. The likeliest token of a row always stays."""
    if any(request.min_p > 0 for request in requests):
        floor = torch.tensor([request.min_p for request in requests], device=scores.device).log()
        scores.masked_fill_(scores < scores.amax(-1, keepdim=True) + floor[:, None], -torch.inf)
    cut = [i for i, request in enumerate(requests) if request.top_k or request.top_p < 1.0]
    if cut:
        scores[cut] = _nucleus(scores[cut], [requests[i] for i in cut])


def _nucleus(scores: Tensor, requests: Sequence[TokenRequest]) -> Tensor:
    """Rows [B, V] with -inf outside top-k and top-p; top-p measures mass among what top-k left.

    Sorting the vocabulary is slow, so only the best `width` tokens are looked at, and more only if they are not enough.
    """
    size = scores.shape[-1]
    top_k = torch.tensor([min(request.top_k or size, size) for request in requests], device=scores.device)
    top_p = torch.tensor([request.top_p for request in requests], device=scores.device)
    least = max((request.top_k for request in requests), default=0)
    values = ids = keep = scores
    for width in (*(w for w in WIDTHS if least <= w < size), size):
        values, ids = scores.topk(width)
        inside = torch.arange(width, device=scores.device) < top_k[:, None]
        values = values.masked_fill(~inside, -torch.inf)
        total = torch.where(top_k < size, values.logsumexp(-1), scores.logsumexp(-1))
        mass = (values - total[:, None]).exp()
        keep = inside & (mass.cumsum(-1) - mass < top_p[:, None])
        if bool(((top_k < size) | (mass.sum(-1) >= top_p)).all()):
            break
    return torch.full_like(scores, -torch.inf).scatter(1, ids, values.masked_fill(~keep, -torch.inf))


def _top(logprobs: Tensor, rows: Sequence[RowSampling]) -> list[tuple[TopToken, ...]]:
    wanted = [row.request.top_logprobs for row in rows]
    most = max(wanted)
    if most == 0:
        return [()] * len(rows)
    values, ids = logprobs.topk(min(most, logprobs.shape[-1]))
    pairs = zip(ids.tolist(), values.tolist(), wanted, strict=True)
    return [tuple(map(TopToken, row_ids[:k], row_values[:k])) for row_ids, row_values, k in pairs]


def _error(sound: bool, possible: bool) -> str:
    if not sound:
        return "the model produced numbers that are not finite"
    return "" if possible else "no token is allowed here"
