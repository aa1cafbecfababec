"""Row statistics inside the worker: exact entropy and self-certainty of logits, stamped onto the ranks. torch only."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from strop.server.engine.vllm import channel

log = logging.getLogger(__name__)
FARTHEST = -1e4  # nats below the largest logit: probability 0 in float32
SLICE = 64  # rows measured at once: bounds the float32 scratch


class Stamps:
    """Stamps of the rows that asked for them: `rows` (indices into the step's logits) and `bits` int64 [len(rows)]."""

    def __init__(self, rows: Tensor, bits: Tensor) -> None:
        self.rows, self.bits = rows, bits

    def onto(self, ranks: Tensor) -> None:
        """Add the stamps to `ranks` int64 [B], in place."""
        ranks[self.rows] = (ranks[self.rows] & ((1 << channel.RANK_BITS) - 1)) | self.bits


def stamps(logits: Tensor, rows: Sequence[int]) -> Stamps:
    """Measure `rows` of logits [B, V], on the device of the logits and without waiting for it."""
    index = torch.tensor(rows, dtype=torch.long).to(logits.device, non_blocking=True)
    bits = [_bits(logits[part]) for part in torch.split(index, SLICE)]
    return Stamps(index, torch.cat(bits))


def _bits(logits: Tensor) -> Tensor:
    """int64 [B]: entropy and certainty where `channel` puts them; 0 for rows that are not finite.

    At temperature 1, before any filter. A logit of -inf (padding) is outside the support. With z the distances from
    the largest logit and Z = sum exp(z): entropy = log Z - sum(exp(z) z) / Z, certainty = log Z - mean(z) - log(size).
    """
    logits = logits.float()
    distances = (logits - logits.amax(-1, keepdim=True)).clamp_(min=FARTHEST)
    weights = distances.exp()
    mass = weights.sum(-1)
    log_mass = mass.log()
    entropy = log_mass - torch.linalg.vecdot(weights, distances) / mass
    inside = distances > FARTHEST
    size = inside.sum(-1).clamp(min=1)
    certainty = log_mass - (distances * inside).sum(-1) / size - size.float().log()
    steps = (entropy / channel.ENTROPY_STEP).round().nan_to_num().clamp(0, channel.ENTROPY_MAX).long() + 1
    certain = (certainty / channel.CERTAINTY_STEP).round().nan_to_num().clamp(0, channel.CERTAINTY_MAX).long()
    bits = (steps << channel.RANK_BITS) | (certain << channel.CERTAINTY_SHIFT)
    return torch.where(entropy.isfinite(), bits, 0)


class Meter:
    """Measures what it can and counts what it could not: a failure costs only the rows that failed."""

    def __init__(self) -> None:
        self.measured = 0
        self.failed = 0

    def measure(self, logits: Tensor, rows: Sequence[int]) -> list[Stamps]:
        """Stamps for `rows`; rows that cannot be measured are left out."""
        try:
            found = [stamps(logits, rows)]
        except Exception:  # boundary: in vLLM's worker; the rows are tried one by one, the culprits go without
            log.exception("token statistics of a step failed")
            found = [one for row in rows for one in self._alone(logits, row)]
        self.measured += sum(len(one.rows) for one in found)
        return found

    def _alone(self, logits: Tensor, row: int) -> list[Stamps]:
        try:
            return [stamps(logits, [row])]
        except Exception:  # boundary: in vLLM's worker; this request misses a number and fails on our side
            log.exception("token statistics of row %d failed", row)
            self.failed += 1
            return []
