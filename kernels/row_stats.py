"""Statistics of next-token logits in one pass over memory.

Legend: B rows, V vocabulary, K top-k. Natural logarithms; everything is in nats. The temperature is T_b of the row,
1 where it is not given or not positive (greedy); p = softmax(x / T). A logit at or below -1e30 (-inf included) is
masked: outside the support.

    log_z        = log sum_v exp((x_v - max x) / T)          logsumexp = max x / T + log_z
    logprob      = (x_y - max x) / T - log_z                 rank      = 1 + #{v: x_v > x_y}   (ties do not raise it)
    entropy      = -sum_v p_v log p_v                        max_prob  = exp(-log_z)
    mean_logprob = mean of log p_v over the support (the state of self-certainty: <= -log support, lower = more certain)
    confidence   = -mean of the K largest log p_v at T = 1   (DeepConf: higher = more peaked; NaN with fewer than K in
    the support)
    raw_log_z    = log_z at T = 1

A row without support has logsumexp -inf, support 0, valid False and NaN elsewhere. A target outside [0, V) has
logprob NaN and rank 0. Top-k ids are exact, ties to the smaller id. Logits of NaN or +inf are the caller's error and
give NaN.

Numerics: logits of any float type, fp32 accumulators, distances taken from the row maximum (a shift of 1e4 costs
1e-6, not 1e-3). Bytes moved: B * V * itemsize (+ 1/16 of it in fp32 when K > 0), read once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from strop.kernels.dispatch import use_triton

MASKED = -1e30
MAX_TOPK = 20
MAX_VOCAB_TRITON = 64 * 8192  # group maxima that one program of the top-k kernel holds
PROGRAMS = 264  # two per multiprocessor of an H100 or H200
MAX_SPLITS = 16


class RowStats(NamedTuple):
    """Result of `row_stats`. Floats are fp32, integers int64, every tensor [B] except the two of top-k [B, K]."""

    max_logit: Tensor
    log_z: Tensor
    raw_log_z: Tensor
    logsumexp: Tensor
    logprob: Tensor
    entropy: Tensor
    mean_logprob: Tensor
    confidence: Tensor
    rank: Tensor
    support: Tensor
    topk_ids: Tensor
    topk_logprobs: Tensor

    @property
    def valid(self) -> Tensor:
        """[B] bool: the row has at least one unmasked logit."""
        return self.support > 0

    @property
    def max_prob(self) -> Tensor:
        """[B] probability of the most likely token."""
        return torch.exp(-self.log_z)

    @property
    def self_certainty(self) -> Tensor:
        """[B] KL(uniform over the support || p) in nats, >= 0, higher = more certain (arXiv 2502.18581)."""
        return -self.mean_logprob - torch.log(self.support.to(torch.float32))


@dataclass(frozen=True)
class Workspace:
    """Output and scratch tensors of one call, reusable by later calls of the same shape (for CUDA graphs)."""

    partial: Tensor
    groups: Tensor
    floats: Tensor
    ints: Tensor
    topk_ids: Tensor
    topk_logprobs: Tensor

    @staticmethod
    def allocate(rows: int, vocab: int, topk: int, device: torch.device | str, splits: int | None = None) -> Workspace:
        """Uninitialised tensors for logits [rows, vocab]; `splits` programs share a row (chosen from the shape if not
        given)."""
        blocks = math.ceil(vocab / 4096)
        chosen = min(math.ceil(PROGRAMS / max(rows, 1)), MAX_SPLITS, blocks) if splits is None else splits

        def fp32(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=device)

        return Workspace(
            partial=fp32(7, rows, chosen),
            groups=fp32(rows, math.ceil(vocab / 64) if topk else 0),
            floats=fp32(8, rows),
            ints=torch.empty((2, rows), dtype=torch.int64, device=device),
            topk_ids=torch.empty((rows, topk), dtype=torch.int64, device=device),
            topk_logprobs=fp32(rows, topk),
        )

    def result(self) -> RowStats:
        """The workspace's outputs under their names; no copy."""
        return RowStats(*[*self.floats.unbind(0), *self.ints.unbind(0), self.topk_ids, self.topk_logprobs])


def row_stats(
    logits: Tensor,
    targets: Tensor | None = None,
    temperature: Tensor | None = None,
    topk: int = 0,
    *,
    bias: Tensor | None = None,
    workspace: Workspace | None = None,
) -> RowStats:
    """Statistics of every row of `logits`; see the module for formulas. No host synchronisation.

    Args:
        logits: [B, V] fp32, bf16 or fp16; the last dimension contiguous, any row stride. Use fp32: bf16 rounding
        moves log-probabilities
            by 0.02 nats on average.
        targets: [B] int64 token ids; without it logprob is NaN and rank 0.
        temperature: [B] fp32; <= 0 means greedy and counts as 1, smaller than 1e-6 counts as 1e-6.
        topk: number of largest entries to return, 0 to 20.
        bias: [V] fp32 added to every row.
        workspace: where the Triton path puts its results (overwritten by the next call with the same workspace).

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    targets = _checked(logits, targets, temperature, topk, bias)
    temperature = None if temperature is None else temperature.contiguous()
    if logits.shape[1] > MAX_VOCAB_TRITON or not use_triton("row_stats", logits):
        return row_stats_reference(logits, targets, temperature, topk, bias)
    return triton_row_stats(logits, targets, temperature, topk, bias, workspace)


def triton_row_stats(
    logits: Tensor,
    targets: Tensor | None,
    temperature: Tensor | None,
    topk: int,
    bias: Tensor | None,
    workspace: Workspace | None = None,
) -> RowStats:
    """The Triton path of `row_stats`, without dispatch and checks."""
    from strop.kernels import triton_row_stats as kernels

    work = workspace or Workspace.allocate(logits.shape[0], logits.shape[1], topk, logits.device)
    if logits.shape[0]:
        kernels.launch(logits, targets, temperature, topk, bias, work)
    return work.result()


def row_stats_reference(
    logits: Tensor,
    targets: Tensor | None = None,
    temperature: Tensor | None = None,
    topk: int = 0,
    bias: Tensor | None = None,
) -> RowStats:
    """`row_stats` in plain torch, fp32, a slice of rows at a time: the CPU path, and what the Triton path is checked
    against."""
    rows, vocab = logits.shape
    step = rows_per_slice(vocab, logits.device)
    parts = []
    for at in range(0, max(rows, 1), step):
        here = slice(at, at + step)
        x = logits[here].float() if bias is None else logits[here].float() + bias
        y, t = (None if extra is None else extra[here] for extra in (targets, temperature))
        parts.append(_slice_stats(x, y, t, topk))
    return parts[0] if len(parts) == 1 else RowStats(*(torch.cat(field) for field in zip(*parts, strict=True)))


def rows_per_slice(vocab: int, device: torch.device) -> int:
    """Rows that the torch path handles at a time: 1 MB of fp32 stays in a CPU's cache, a GPU wants fewer launches."""
    return max((1 << 18 if device.type == "cpu" else 1 << 26) // vocab, 1)


def inverse_temperature(temperature: Tensor | None, like: Tensor) -> Tensor:
    """[B] fp32 1/T with the conventions of `row_stats`."""
    if temperature is None:
        return like.new_ones(like.shape[0], dtype=torch.float32)
    t = temperature.float()
    return 1.0 / torch.where(t > 0, t.clamp(min=1e-6), 1.0)


def _slice_stats(x_BV: Tensor, y_B: Tensor | None, t_B: Tensor | None, topk: int) -> RowStats:
    inverse_B = inverse_temperature(t_B, x_BV)
    peak_B = x_BV.amax(dim=1).clamp(min=MASKED)
    support_B = (x_BV > MASKED).sum(dim=1)
    nothing_B = support_B == 0
    nan = x_BV.new_full((), math.nan)
    distance_BV = x_BV - peak_B[:, None]
    raw_log_z_B = None if t_B is None else torch.where(nothing_B, nan, distance_BV.exp().sum(dim=1).log())
    distance_BV = distance_BV.mul_(inverse_B[:, None])
    total_B = torch.where(x_BV > MASKED, distance_BV, 0.0).sum(dim=1)
    distance_BV = distance_BV.clamp_(min=-200.0)
    weight_BV = distance_BV.exp()
    z_B = weight_BV.sum(dim=1)
    log_z_B = torch.where(nothing_B, nan, z_B.log())
    entropy_B = (log_z_B - distance_BV.mul_(weight_BV).sum(dim=1) / z_B).clamp(min=0.0)
    raw_log_z_B = log_z_B if raw_log_z_B is None else raw_log_z_B
    logprob_B, rank_B = _of_targets(x_BV, y_B, peak_B, inverse_B, log_z_B)
    ids_BK, logprobs_BK, confidence_B = _of_largest(x_BV, topk, peak_B, inverse_B, log_z_B, raw_log_z_B)
    return RowStats(
        max_logit=torch.where(nothing_B, -math.inf, peak_B),
        log_z=log_z_B,
        raw_log_z=raw_log_z_B,
        logsumexp=torch.where(nothing_B, -math.inf, peak_B * inverse_B + log_z_B),
        logprob=logprob_B,
        entropy=torch.where(nothing_B, nan, entropy_B),
        mean_logprob=total_B / support_B - log_z_B,
        confidence=confidence_B,
        rank=rank_B,
        support=support_B,
        topk_ids=ids_BK,
        topk_logprobs=logprobs_BK,
    )


def _of_targets(
    x_BV: Tensor, y_B: Tensor | None, peak_B: Tensor, inverse_B: Tensor, log_z_B: Tensor
) -> tuple[Tensor, Tensor]:
    if y_B is None:
        return torch.full_like(log_z_B, math.nan), torch.zeros_like(log_z_B, dtype=torch.int64)
    inside_B = (y_B >= 0) & (y_B < x_BV.shape[1])
    x_y_B = x_BV.gather(1, torch.where(inside_B, y_B, 0)[:, None])[:, 0]
    distance_B = torch.where(x_y_B > MASKED, x_y_B, -math.inf) - peak_B
    rank_B = 1 + (x_BV > x_y_B.clamp(min=MASKED)[:, None]).sum(dim=1)
    return torch.where(inside_B, distance_B * inverse_B - log_z_B, math.nan), torch.where(inside_B, rank_B, 0)


def _of_largest(
    x_BV: Tensor, topk: int, peak_B: Tensor, inverse_B: Tensor, log_z_B: Tensor, raw_log_z_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if topk == 0:
        none_B0 = x_BV.new_empty((x_BV.shape[0], 0))
        return none_B0.long(), none_B0, torch.full_like(log_z_B, math.nan)
    ids_BK = exact_topk(x_BV, topk)
    value_BK = x_BV.gather(1, ids_BK)
    distance_BK = torch.where(value_BK > MASKED, value_BK, -math.inf) - peak_B[:, None]
    mean_B = (distance_BK - raw_log_z_B[:, None]).mean(dim=1)
    return (
        ids_BK,
        distance_BK * inverse_B[:, None] - log_z_B[:, None],
        torch.where(mean_B > -math.inf, -mean_B, math.nan),
    )


def exact_topk(x_BV: Tensor, topk: int) -> Tensor:
    """[B, K] int64 ids of the largest values, ties to the smaller id; from the K best groups of 64."""
    rows, vocab = x_BV.shape
    whole = vocab // 64 * 64
    best_BG = x_BV[:, :whole].reshape(rows, whole // 64, 64).amax(dim=2)
    if whole < vocab:
        best_BG = torch.cat([best_BG, x_BV[:, whole:].amax(dim=1, keepdim=True)], dim=1)
    groups = torch.arange(best_BG.shape[1], device=x_BV.device).expand_as(best_BG)
    chosen_BK = _largest_keys(best_BG, groups, min(topk, best_BG.shape[1]))
    cols_Bx = (chosen_BK[:, :, None] * 64 + torch.arange(64, device=x_BV.device)).flatten(1)
    inside_Bx = cols_Bx < vocab
    value_Bx = x_BV.gather(1, torch.where(inside_Bx, cols_Bx, 0))
    return _largest_keys(torch.where(inside_Bx, value_Bx, -math.inf), cols_Bx, topk)


def _largest_keys(value_Bx: Tensor, index_Bx: Tensor, topk: int) -> Tensor:
    """Indices of the topk largest by (value, smaller index): both packed into one int64 that sorts that way."""
    bits_Bx = (value_Bx + 0.0).view(torch.int32)
    bits_Bx = torch.where(bits_Bx >= 0, bits_Bx, bits_Bx ^ 0x7FFFFFFF).long()
    return 0x7FFFFFFF - ((bits_Bx << 32 | (0x7FFFFFFF - index_Bx)).topk(topk, dim=1).values & 0x7FFFFFFF)


def _checked(
    logits: Tensor, targets: Tensor | None, temperature: Tensor | None, topk: int, bias: Tensor | None
) -> Tensor | None:
    if logits.dim() != 2 or logits.shape[1] < 1 or logits.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"logits are [B, V] in fp32, bf16 or fp16, got {tuple(logits.shape)} {logits.dtype}")
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        raise ValueError("the vocabulary must be contiguous: logits.stride(1) == 1")
    rows, vocab = logits.shape
    for name, extra, size in (("targets", targets, rows), ("temperature", temperature, rows), ("bias", bias, vocab)):
        if extra is not None and (extra.shape != (size,) or extra.device != logits.device):
            raise ValueError(f"{name} is [{size}] on {logits.device}, got {tuple(extra.shape)} on {extra.device}")
    if bias is not None and (bias.dtype != torch.float32 or not bias.is_contiguous()):
        raise ValueError("bias is contiguous fp32")
    if not 0 <= topk <= min(MAX_TOPK, vocab):
        raise ValueError(f"topk is 0 to {min(MAX_TOPK, vocab)}, got {topk}")
    return None if targets is None else targets.to(torch.int64).contiguous()
