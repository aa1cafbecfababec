"""Scores of a ragged batch of candidates: per-token statistics, and what each candidate's tokens add up to.

Legend: T tokens of all candidates in a row, N candidates, S values; `offsets` [N + 1] int64, candidate n owns
[offsets[n], offsets[n + 1]).
    sum, mean, min, prod = exp(log_prod), log_prod = sum log value, last      over the values that are not NaN
An empty candidate (no value, or only NaN) has count 0, sum 0 and NaN elsewhere: no score is not a good score,
although an empty product would be 1. Accumulated in fp64: a product of 200 steps underflows fp32. Deterministic:
segments are reduced in order, without atomics. Bytes moved: 8 S per reduction; at most a few thousand values, so
latency only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from strop.kernels.head import Head
from strop.kernels.row_stats import RowStats
from strop.kernels.score_hidden import CHUNK, score_hidden


@dataclass(frozen=True)
class SegmentStats:
    """Result of `reduce_segments`: fp32 [N], count int64 [N]. log_prod is -inf for a segment with a zero, NaN with a
    negative value."""

    count: Tensor
    sum: Tensor
    mean: Tensor
    min: Tensor
    prod: Tensor
    log_prod: Tensor
    last: Tensor


class SequenceScores(NamedTuple):
    """Result of `score_sequences`: statistics of every token [T], and of every candidate [N]."""

    tokens: RowStats
    logprob: SegmentStats
    entropy: SegmentStats


def score_sequences(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    offsets: Tensor,
    *,
    temperature: Tensor | None = None,
    topk: int = 0,
    chunk: int = CHUNK,
) -> SequenceScores:
    """Score every candidate of a ragged batch.

    Args:
        hidden: [T, d]; row t is the head's input that predicts targets[t].
        head: weight [V, d], scale and soft-cap.
        targets: [T] int64; out of range (-100) is left out of the candidate's numbers.
        offsets: [N + 1] int64, ascending from 0 to T.
        temperature: [T] fp32, as in `row_stats`.
        topk: 0 to 20.
        chunk: rows of logits held at a time.

    Raises:
        ValueError: shapes that do not fit.
    """
    tokens = score_hidden(hidden, head, targets, temperature=temperature, topk=topk, chunk=chunk)
    scored = torch.where(tokens.logprob.isnan(), math.nan, tokens.entropy)
    return SequenceScores(
        tokens, reduce_segments(tokens.logprob.detach(), offsets), reduce_segments(scored.detach(), offsets)
    )


def reduce_segments(values: Tensor, offsets: Tensor) -> SegmentStats:
    """Reductions of each segment of `values`; NaN values are left out. No host synchronisation.

    Args:
        values: [S] float, for example step scores of a process reward model.
        offsets: [N + 1] int64, ascending from 0 to S.

    Raises:
        ValueError: shapes that do not fit.
    """
    if values.dim() != 1 or offsets.dim() != 1 or offsets.shape[0] < 1:
        raise ValueError(f"values are [S] and offsets [N + 1], got {tuple(values.shape)} and {tuple(offsets.shape)}")
    offsets = offsets.to(torch.int64)
    values = values.double()
    known = ~values.isnan()

    def over(data: Tensor, reduce: str) -> Tensor:
        if data.shape[0] == 0:
            return data.new_full((offsets.shape[0] - 1,), 0.0 if reduce == "sum" else math.nan)
        return torch.segment_reduce(data, reduce, offsets=offsets, unsafe=True)

    count = over(known.double(), "sum")
    empty = count == 0
    total = over(torch.where(known, values, 0.0), "sum")
    log_prod = over(torch.where(known, values.log(), 0.0), "sum")
    place = torch.where(known, torch.arange(values.shape[0], device=values.device).double(), -1.0)
    at = torch.where(empty, 0.0, over(place, "max")).long()
    last = values[at] if values.shape[0] else torch.full_like(total, math.nan)
    rest = (total / count, over(torch.where(known, values, math.inf), "min"), log_prod.exp(), log_prod, last)
    return SegmentStats(count.long(), total.float(), *(torch.where(empty, math.nan, value).float() for value in rest))
