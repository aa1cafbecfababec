"""Teacher forcing: how likely the model finds given continuations, and given next tokens.

A prompt is read once (a known prefix is reused) and kept for later; its continuations branch from it in batches.
Each portion is one bounded forward pass, so that scoring and decoding take turns.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor

from strop.server.engine.chat.types import LabelScores, RequestFailed, SequenceScore, TopToken
from strop.server.engine.transformers.batcher import Batcher
from strop.server.engine.transformers.cache import Sheet
from strop.server.engine.transformers.job import Task
from strop.server.engine.transformers.sampling import row_stats

Ids = Sequence[int]


def score(
    batcher: Batcher, task: Task, prompt_ids: Ids, continuations: Sequence[Ids], top: int = 0
) -> Generator[int, None, tuple[SequenceScore, ...]]:
    """Logprob and entropy of every token of every continuation. Yields the tokens of each portion."""
    sheet = yield from _read(batcher, task, prompt_ids[:-1])
    found: dict[int, SequenceScore] = {i: SequenceScore((), ()) for i, ids in enumerate(continuations) if not ids}
    for group in _groups(continuations, sheet.length, batcher.limits.prefill_tokens, batcher.limits.kv_tokens):
        targets = [continuations[i] for i in group]
        inputs = [[prompt_ids[-1], *ids[:-1]] for ids in targets]
        if len(group) == 1:
            found[group[0]] = yield from _single(batcher, sheet, inputs[0], targets[0], top)
            continue
        longest = max(map(len, inputs))
        logits = batcher.runner.branch(sheet, [[*ids, *[0] * (longest - len(ids))] for ids in inputs])
        for i, row, ids in zip(group, logits, targets, strict=True):
            found[i] = _measure(row[: len(ids)], ids, top)
        yield longest * len(group)
    return tuple(found[i] for i in range(len(continuations)))


def labels(batcher: Batcher, task: Task, prompt_ids: Ids, label_ids: Ids) -> Generator[int, None, LabelScores]:
    """Logprobs of `label_ids` as the token after the prompt."""
    sheet = yield from _read(batcher, task, prompt_ids[:-1])
    logits = batcher.runner.branch(sheet, [prompt_ids[-1:]])[0]
    yield 1
    stats = row_stats(logits)
    if not bool(stats.sound.all()):
        raise RequestFailed("the model produced numbers that are not finite")
    return LabelScores(tuple(stats.logprobs[0, list(label_ids)].tolist()), stats.entropy.item())


def _read(batcher: Batcher, task: Task, ids: Ids) -> Generator[int, None, Sheet]:
    sheet = batcher.sheet_for(ids, len(ids))
    task.cached_tokens = sheet.length
    if sheet.length == len(ids):
        return sheet
    while sheet.length < len(ids):
        portion = ids[sheet.length : sheet.length + batcher.limits.prefill_tokens]
        logits = batcher.runner.prefill(sheet, portion)
        yield len(portion)
    if not bool(logits.isnan().any()):
        batcher.prefixes.add(ids, sheet.written)
    return sheet


def _single(batcher: Batcher, sheet: Sheet, inputs: Ids, targets: Ids, top: int) -> Generator[int, None, SequenceScore]:
    """One continuation of any length, in portions."""
    own = Sheet(sheet.geometry, sheet.length + len(inputs))
    own.append(sheet.written)
    parts = []
    for start in range(0, len(inputs), batcher.limits.prefill_tokens):
        portion = slice(start, start + batcher.limits.prefill_tokens)
        logits = batcher.runner.prefill(own, inputs[portion], every=True)
        parts.append(_measure(logits, targets[portion], top))
        yield len(logits)
    return SequenceScore(
        tuple(value for part in parts for value in part.logprobs),
        tuple(value for part in parts for value in part.entropies),
        tuple(value for part in parts for value in part.top),
    )


def _measure(logits: Tensor, targets: Ids, top: int) -> SequenceScore:
    """logits [T, V] that predict the T targets."""
    stats = row_stats(logits)
    if not bool(stats.sound.all()):
        raise RequestFailed("the model produced numbers that are not finite")
    at = torch.tensor([list(targets)], device=logits.device).T
    return SequenceScore(
        tuple(stats.logprobs.gather(1, at)[:, 0].tolist()),
        tuple(stats.entropy.tolist()),
        _likeliest(stats.logprobs, top) if top else (),
    )


def _likeliest(logprobs: Tensor, count: int) -> tuple[tuple[TopToken, ...], ...]:
    """The `count` likeliest tokens of every row of logprobs [T, V], best first."""
    values, ids = logprobs.topk(min(count, logprobs.shape[1]))
    return tuple(
        tuple(TopToken(int(i), float(v)) for i, v in zip(row_ids, row, strict=True))
        for row_ids, row in zip(ids.tolist(), values.tolist(), strict=True)
    )


def _groups(continuations: Sequence[Ids], before: int, portion: int, kv_tokens: int) -> Iterator[list[int]]:
    """Indices of continuations to run together: similar lengths, at most `portion` tokens a pass, memory bounded."""
    group: list[int] = []
    for i in sorted((i for i, ids in enumerate(continuations) if ids), key=lambda i: len(continuations[i])):
        rows, longest = len(group) + 1, len(continuations[i])
        if group and (rows * longest > portion or rows * (before + longest) > kv_tokens):
            yield group
            group = []
        group.append(i)
    if group:
        yield group
