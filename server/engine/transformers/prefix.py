"""Prefix reuse: keys and values of finished prompts and drafts, found again by their token ids.

A tree of blocks of up to `BLOCK` tokens; sequences share the blocks they share. A match is exact to the token, also
inside a block. Bounded by tokens; the least recently used leaf goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from torch import Tensor

BLOCK = 16


class Match(NamedTuple):
    """How many leading tokens are known, and their keys and values as parts [N, 2, H, l, D] in order."""

    length: int
    parts: list[Tensor]


@dataclass(eq=False, slots=True)
class _Node:
    ids: tuple[int, ...]
    kv: Tensor | None
    parent: _Node | None
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)


class PrefixStore:
    """Not thread-safe: the engine's thread owns it."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens, self.tokens = max_tokens, 0
        self._root = _Node((), None, None)
        self._used: OrderedDict[int, _Node] = OrderedDict()  # least recently used first; parents always after children

    def match(self, ids: Sequence[int]) -> Match:
        """The longest known prefix of `ids`."""
        node, parts, length = self._root, [], 0
        for block in _blocks(ids):
            child, common = _closest(node, block)
            if child is None or child.kv is None:
                break
            node, length = child, length + common
            parts.append(child.kv[:, :, :, :common])
            if common < BLOCK:
                break
        self._touch(node)
        return Match(length, parts)

    def add(self, ids: Sequence[int], kv: Tensor) -> None:
        """Remember `ids` with their keys and values [N, 2, H, len(ids), D]; copies only what is new."""
        node, start = self._root, 0
        for block in _blocks(ids):
            child, common = _closest(node, block)
            if child is None or common < len(block):
                child = self._insert(node, block, kv[:, :, :, start : start + len(block)].clone())
            node, start = child, start + len(block)
        self._touch(node)
        while self.tokens > self.max_tokens:
            self._drop(self._used[next(iter(self._used))])

    def _insert(self, parent: _Node, block: tuple[int, ...], kv: Tensor) -> _Node:
        for shorter in [c for c in parent.children.values() if c.ids == block[: len(c.ids)]]:
            self._drop(shorter)
        node = parent.children[block] = _Node(block, kv, parent)
        self._used[id(node)] = node
        self.tokens += len(block)
        return node

    def _drop(self, node: _Node) -> None:
        del self._used[id(node)]
        self.tokens -= len(node.ids)
        if node.parent is not None:
            del node.parent.children[node.ids]

    def _touch(self, node: _Node) -> None:
        step: _Node | None = node
        while step is not None and step.parent is not None:
            self._used.move_to_end(id(step))
            step = step.parent


def _blocks(ids: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return (tuple(ids[start : start + BLOCK]) for start in range(0, len(ids), BLOCK))


def _closest(node: _Node, block: tuple[int, ...]) -> tuple[_Node | None, int]:
    """The child that shares the most leading tokens with `block`, and how many."""
    exact = node.children.get(block)
    if exact is not None:
        return exact, len(block)
    best, longest = None, 0
    for child in node.children.values():
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(child.ids, block, strict=False)))
        if common > longest:
            best, longest = child, common
    return best, longest
