"""Forward passes: explicit positions, explicit masks, float32 logits out. Counts every token it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strop.server.engine.transformers.attention import install
from strop.server.engine.transformers.cache import BranchStep, DecodeStep, PrefillStep, Sheet, Slots, Step, probe


class Runner:
    """Owns the model. Use it from one thread, inside `torch.inference_mode`."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.geometry = probe(model)
        self.vocab_size = int(model.config.get_text_config().vocab_size)
        self.forward_tokens = 0
        self.forward_passes = 0
        install(model)

    def prefill(self, sheet: Sheet, ids: Sequence[int], every: bool = False) -> Tensor:
        """Append `ids` to the sheet. Logits [V] after the last one, or [len(ids), V] with `every`."""
        at = torch.arange(sheet.length, sheet.length + len(ids), device=self.geometry.device)
        step = PrefillStep(sheet, len(ids))
        mask = self._mask(step.attended, at[None])
        logits = self._forward([ids], at[None], mask, step, keep=0 if every else 1)
        sheet.length = step.attended
        return logits[0] if every else logits[0, -1]

    def decode(self, slots: Slots, ids: Sequence[int]) -> Tensor:
        """Append one token to every row. Logits [B, V]."""
        slots.reserve(len(ids), max(slots.lengths) + 1)
        step = DecodeStep(slots)
        at = step.at[:, None]
        logits = self._forward([[i] for i in ids], at, self._mask(step.attended, at), step, keep=1)
        slots.lengths = [length + 1 for length in slots.lengths]
        return logits[:, -1]

    def branch(self, sheet: Sheet, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits [B, Q, V] of `rows` (equally long) that all continue the sheet. The sheet stays as it is."""
        queries = len(rows[0])
        at = torch.arange(sheet.length, sheet.length + queries, device=self.geometry.device)[None]
        step = BranchStep(sheet, queries)
        return self._forward(rows, at.expand(len(rows), -1), self._mask(step.attended, at), step, keep=0)

    def _mask(self, attended: int, at: Tensor) -> Tensor:
        """Additive mask [B, 1, Q, attended] for queries at positions `at` [B, Q]."""
        visible = torch.arange(attended, device=at.device) <= at[:, None, :, None]
        return torch.zeros(visible.shape, dtype=self.geometry.dtype, device=at.device).masked_fill_(
            ~visible, -torch.inf
        )

    def _forward(self, rows: Sequence[Sequence[int]], at: Tensor, mask: Tensor, step: Step, keep: int) -> Tensor:
        ids = torch.tensor([list(row) for row in rows], device=self.geometry.device)
        self.forward_tokens += ids.numel()
        self.forward_passes += 1
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=at,
            past_key_values=step.cache(),
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits.float()
