"""Key-value memory. `Sheet`: one sequence, any length. `Slots`: the decoding batch, rows come and go at every step.

Shapes: N layers, R rows, H key-value heads, L positions, D head size. Both keep keys and values in one tensor
([N, 2, H, L, D] and [N, 2, R, H, L, D]), so forking, parking and moving a row is a single copy. Row i of the slots
holds positions 0 .. length[i]-1; what lies behind is stale but finite, and masked. The model's own forward runs on them
through a `Step`, given explicit positions and a 4-d additive mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

LENGTH_STEP = 128


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of one token's keys and values."""

    layers: int
    heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of all layers."""
        return 2 * self.layers * self.heads * self.head_dim * self.dtype.itemsize


def probe(model: Any) -> Geometry:
    """Learn the geometry by running one token. ValueError if the model is not dense attention in every layer."""
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache)
    layers: list[Any] = list(cache.layers)
    shapes = {None if getattr(layer, "keys", None) is None else tuple(layer.keys.shape) for layer in layers}
    if len(shapes) != 1 or None in shapes or any(getattr(layer, "is_sliding", False) for layer in layers):
        raise ValueError("the embedded engine needs a model with full attention and equal heads in every layer")
    keys = layers[0].keys
    return Geometry(len(layers), keys.shape[1], keys.shape[3], keys.dtype, keys.device)


class Sheet:
    """Keys and values of one sequence. `kv` is [N, 2, H, capacity, D]; the first `length` positions are written."""

    def __init__(self, geometry: Geometry, capacity: int = 0) -> None:
        g = geometry
        self.geometry = geometry
        self.kv = torch.zeros(g.layers, 2, g.heads, capacity, g.head_dim, dtype=g.dtype, device=g.device)
        self.length = 0

    @property
    def written(self) -> Tensor:
        """[N, 2, H, length, D], a view."""
        return self.kv[:, :, :, : self.length]

    def append(self, kv: Tensor) -> None:
        """Add already computed positions, [N, 2, H, l, D]."""
        end = self.length + kv.shape[3]
        self.kv[:, :, :, self.length : end] = kv
        self.length = end


class Slots:
    """The rows of the running batch, packed: rows 0 .. len(lengths)-1 are in use.

    Bounded by `max_rows` and by `max_tokens` positions in the whole rectangle; ask `fits` before `join` and `reserve`.
    Growing copies, so for a moment old and new rectangle exist together.
    """

    def __init__(self, geometry: Geometry, max_rows: int, max_tokens: int) -> None:
        self.geometry, self.max_rows, self.max_tokens = geometry, max_rows, max_tokens
        self.lengths: list[int] = []
        self.kv = self._allocate(0, 0)

    def fits(self, rows: int, longest: int) -> bool:
        """Whether a batch of `rows` rows with `longest` positions is within bounds. One row always is."""
        room_rows, room_length = _room(rows, longest)
        return rows <= 1 or (rows <= self.max_rows and room_rows * room_length <= self.max_tokens)

    def join(self, sheet: Sheet) -> int:
        """Copy a sequence into a new row; returns its row number."""
        row = len(self.lengths)
        self.reserve(row + 1, max(sheet.length, *self.lengths, 0))
        self.kv[:, :, row, :, : sheet.length] = sheet.written
        self.lengths.append(sheet.length)
        return row

    def park(self, row: int) -> Sheet:
        """A row's positions as a sheet of its own (the row stays)."""
        sheet = Sheet(self.geometry, self.lengths[row])
        sheet.append(self.kv[:, :, row, :, : self.lengths[row]])
        return sheet

    def leave(self, row: int, poisoned: bool = False) -> int:
        """Free a row. The last row moves into its place; returns the moved row's old number.

        `poisoned`: the row may hold NaN, which would leak through the mask; wipe it.
        """
        last = len(self.lengths) - 1
        if poisoned:
            self.kv[:, :, row] = 0
        if row != last:
            length = self.lengths[last]
            self.kv[:, :, row, :, :length] = self.kv[:, :, last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()
        if not self.lengths:
            self.kv = self._allocate(0, 0)
        return last

    def reserve(self, rows: int, longest: int) -> None:
        """Make room for that many rows and positions, keeping what is written. Grows in steps and never more than asked
        for in either direction, so that one long row does not cost what many long rows would."""
        if rows <= self.kv.shape[2] and longest <= self.kv.shape[4]:
            return
        grown = self._allocate(*_room(rows, longest))
        used, written = len(self.lengths), max(self.lengths, default=0)
        grown[:, :, :used, :, :written] = self.kv[:, :, :used, :, :written]
        self.kv = grown

    def _allocate(self, rows: int, length: int) -> Tensor:
        g = self.geometry
        return torch.zeros(g.layers, 2, rows, g.heads, length, g.head_dim, dtype=g.dtype, device=g.device)


def _room(rows: int, longest: int) -> tuple[int, int]:
    """Rows rounded up to a power of two, positions to a multiple of `LENGTH_STEP`."""
    return 1 << (rows - 1).bit_length(), -(-longest // LENGTH_STEP) * LENGTH_STEP


class Step:
    """Where one forward pass writes and what it may look at; `cache` is what the model gets.

    The cache points here and never back, so its memory is freed as soon as it is dropped.
    """

    def __init__(self, layers: Iterable[Tensor], before: int, tokens: int) -> None:
        self._layers = list(layers)
        self.before, self.attended = before, before + tokens

    def cache(self) -> Cache:
        """A transformers cache for exactly this pass."""
        return Cache(layers=[_Layer(kv, self) for kv in self._layers])

    def write(self, kv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take one layer's new keys and values [B, H, Q, D]; return all it may attend to, [B, H, attended, D]."""
        raise NotImplementedError


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of a step, in the shape transformers wants."""

    def __init__(self, kv: Tensor, step: Step) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kv, self.step, self.is_initialized = kv, step, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the memory exists."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """See `Step.write`."""
        return self.step.write(self.kv, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        """(positions attended to, offset)."""
        return self.step.attended, 0

    def get_seq_length(self) -> int:
        """Positions before this step."""
        return self.step.before

    def get_max_length(self) -> int:
        """No maximum of its own."""
        return -1


class DecodeStep(Step):
    """One new token for every row of the slots."""

    def __init__(self, slots: Slots) -> None:
        super().__init__(slots.kv, max(slots.lengths), 1)
        self.rows = torch.arange(len(slots.lengths), device=slots.geometry.device)
        self.at = torch.tensor(slots.lengths, device=slots.geometry.device)

    def write(self, kv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """kv [2, R, H, capacity, D]; keys and values [B, H, 1, D]."""
        kv[0][self.rows, :, self.at] = keys[:, :, 0]
        kv[1][self.rows, :, self.at] = values[:, :, 0]
        used = kv[:, : len(self.rows), :, : self.attended]
        return used[0], used[1]


class PrefillStep(Step):
    """Several new tokens for one sheet."""

    def __init__(self, sheet: Sheet, tokens: int) -> None:
        super().__init__(sheet.kv, sheet.length, tokens)

    def write(self, kv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """kv [2, H, capacity, D]; keys and values [1, H, Q, D]."""
        kv[0, :, self.before : self.attended] = keys[0]
        kv[1, :, self.before : self.attended] = values[0]
        return kv[None, 0, :, : self.attended], kv[None, 1, :, : self.attended]


class BranchStep(Step):
    """Several branches of one sheet, equally long; nothing is kept."""

    def __init__(self, sheet: Sheet, tokens: int) -> None:
        super().__init__(sheet.written, sheet.length, tokens)

    def write(self, kv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """kv [2, H, before, D]; keys and values [B, H, Q, D]."""
        shared = kv[:, None].expand(-1, keys.shape[0], -1, -1, -1)
        return torch.cat((shared[0], keys), dim=2), torch.cat((shared[1], values), dim=2)
