"""Cut an answer into steps, put it together again, and turn the scores of its steps into one number."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

How = Literal["last", "min", "prod", "mean", "max", "weighted"]

_FENCE = re.compile(r"^ {0,3}(?P<run>`{3,}|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
_BLANK = re.compile(r"\n(?:[ \t\r]*\n)+")
_HEADING = re.compile(r"^ {0,3}(?:#{1,6} +|\*\*|__)?Step +\d+\b", re.MULTILINE | re.IGNORECASE)
_ITEM = re.compile(r"^ {0,3}\d{1,3}[.)][ \t]+\S", re.MULTILINE)
_ONLY_HEADING = re.compile(
    r"\s*(?:#{1,6} [^\n]*|(?:\*\*|__)?Step +\d+[^\w\n]*|(?:\*\*|__)[^\n*_]+(?:\*\*|__):?)\s*", re.I
)


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced code block: `text[start:end]`. `info` is what follows the fence; not `closed` if the text ends in it."""

    start: int
    end: int
    info: str
    body: str
    closed: bool


def fences(text: str) -> list[Fence]:
    """The fenced code blocks (``` or ~~~, CommonMark rules without containers), in order."""
    found: list[Fence] = []
    opened: re.Match[str] | None = None
    for line in _FENCE.finditer(text):
        run, info = line["run"], line["info"].strip()
        if opened is None:
            if run[0] == "~" or "`" not in info:
                opened = line
        elif not info and run[0] == opened["run"][0] and len(run) >= len(opened["run"]):
            body = text[opened.end() + 1 : line.start()]
            found.append(Fence(opened.start(), line.end(), opened["info"].strip(), body, closed=True))
            opened = None
    if opened is not None:
        body = text[opened.end() + 1 :]
        found.append(Fence(opened.start(), len(text), opened["info"].strip(), body, closed=False))
    return found


def inside(place: int, blocks: Sequence[Fence]) -> bool:
    """Whether a cut at that offset would be within one of the blocks of `fences`."""
    i = bisect_left(blocks, place, key=lambda block: block.start) - 1
    return i >= 0 and (place < blocks[i].end or not blocks[i].closed)


def split(text: str) -> list[str]:
    """The steps of an answer, in order; `join` gives back the text exactly, character for character.

    A step ends with a blank line, or before a line that begins "Step k" or "k. " / "k) " (not indented by more than
    three spaces); never inside a code block. A heading belongs to what follows it, white space to what precedes it.
    The empty text has no steps.
    """
    blocks = fences(text)
    blanks = (gap.end() for gap in _BLANK.finditer(text))
    starts = (line.start() for pattern in (_HEADING, _ITEM) for line in pattern.finditer(text))
    cuts = sorted({cut for cut in (*blanks, *starts) if 0 < cut < len(text) and not inside(cut, blocks)})
    steps: list[str] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        piece = text[start:end]
        if steps and (not piece.strip() or not steps[-1].strip() or _ONLY_HEADING.fullmatch(steps[-1])):
            steps[-1] += piece
        elif piece:
            steps.append(piece)
    return steps


def join(steps: Iterable[str]) -> str:
    """The text that `split` was given."""
    return "".join(steps)


def aggregate(
    scores: Sequence[float | None], how: How = "last", weights: Sequence[float] | None = None
) -> float | None:
    """One score for an answer from the scores of its steps, in order; None if there are none, or one is None or NaN.

    "prod" punishes length; "min" does not; reward models trained on rollouts tend to want "last" (the default of
    Hugging Face's search-and-learn). "weighted" is the weighted mean: with `weights` (one per step, none negative, not
    all zero), or by default 1, 2, ... so that later steps count more.
    Raises ValueError for weights that do not fit, or that come with another rule.
    """
    if weights is not None and how != "weighted":
        raise ValueError(f"weights mean nothing to {how!r}")
    known = [score for score in scores if score is not None and not math.isnan(score)]
    if not known or len(known) < len(scores):
        return None
    match how:
        case "last":
            return known[-1]
        case "min":
            return min(known)
        case "max":
            return max(known)
        case "prod":
            return math.prod(known)
        case "mean":
            return math.fsum(known) / len(known)
        case "weighted":
            return _weighted_mean(known, list(range(1, len(known) + 1)) if weights is None else weights)


def _weighted_mean(scores: Sequence[float], weights: Sequence[float]) -> float:
    if len(weights) != len(scores):
        raise ValueError(f"{len(scores)} scores need as many weights, not {len(weights)}")
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError("weights must be finite, none negative, and not all zero")
    return math.fsum(score * weight for score, weight in zip(scores, weights, strict=True)) / math.fsum(weights)
