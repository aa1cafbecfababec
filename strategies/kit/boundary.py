"""Where an unfinished answer may be cut back, and whether it may be interrupted at all (iterative deepening)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from strop.strategies.kit.parse import extract
from strop.strategies.kit.reasoning import answer_part, is_thinking
from strop.strategies.kit.steps import Fence, fences, inside

_PARAGRAPH_END = re.compile(r"\n[ \t\r]*\n[ \t\r\n]*")
_SENTENCE_END = re.compile(r"[.!?。！？][\"')\]*_”’]*(?=\s|$)")
_NO_SENTENCE_END = re.compile(
    r"(?:^|[\s(])(?:[^\W\d_]|\d{1,3}|e\.g|i\.e|cf|vs|etc|Dr|Mr|Mrs|Ms|Prof|No|Fig|Eq|approx)\.$"
)
_FINAL = re.compile(
    r"\bfinal[ \t]+answer\b[*_ \t]*(?::|=|is\b|\n)\s*[*_:]*\s*[^\s*_:]|^[ \t]*####[ \t]*\S", re.I | re.M
)
_CALL_TAGS = re.compile(r"<(?P<close>/?)(?:tool_call|function_call|tool_calls|function)\b[^<>]{0,80}>", re.IGNORECASE)
_CALL_STARTS = ("<|python_tag|>", "[TOOL_CALLS]", "<|tool_call", "<｜tool▁call", "<|plugin|>")
_OBJECT = re.compile(r"\{\s*\"|[\[{]\s*\{\s*\"")
_JSON_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]"]', re.DOTALL)


def last_boundary(text: str, within: int = 256) -> int | None:
    """How many characters to keep so that the text ends at a boundary; None if there is none to be had.

    Looked at are the last `within` characters: the end of the last paragraph (its blank line included) if there is
    one, else the end of the last sentence. Neither counts inside a code block or at the very start.
    Raises ValueError if `within` is negative.
    """
    if within < 0:
        raise ValueError(f"within must not be negative, but is {within}")
    blocks = fences(text)
    for ends in (_paragraph_ends(text), _sentence_ends(text, max(0, len(text) - within))):
        places = [end for end in ends if end >= max(1, len(text) - within) and not inside(end, blocks)]
        if places:
            return places[-1]
    return None


def last_token_boundary(texts: Sequence[str], within: int = 64) -> int | None:
    """How many tokens to keep so that the text ends at a boundary; `texts` holds the text of each token, in order.

    Like `last_boundary`, with `within` counted in tokens and only places where a token ends. A token that holds the
    blank line and more ("\\n\\nSo") is no boundary.
    """
    if within < 0:
        raise ValueError(f"within must not be negative, but is {within}")
    text = "".join(texts)
    token_of = {end: n for n, end in enumerate(accumulate(map(len, texts)), start=1) if n >= len(texts) - within}
    blocks = fences(text)
    start = min(token_of, default=len(text))
    for ends in (_paragraph_places(text, start), _sentence_ends(text, start)):
        places = [end for end in ends if end in token_of and end > 0 and not inside(end, blocks)]
        if places:
            return token_of[max(places)]
    return None


def _paragraph_ends(text: str) -> list[int]:
    return [gap.end() for gap in _PARAGRAPH_END.finditer(text)]


def _paragraph_places(text: str, start: int) -> list[int]:
    """Every place from `start` on that is behind a blank line and before the next paragraph."""
    gaps = _PARAGRAPH_END.finditer(text)
    return [place for gap in gaps for place in range(max(start, gap.start() + gap[0].rindex("\n") + 1), gap.end() + 1)]


def _sentence_ends(text: str, start: int) -> list[int]:
    ends = _SENTENCE_END.finditer(text, max(0, start - 4))
    return [end.end() for end in ends if not _NO_SENTENCE_END.search(text[max(0, end.start() - 8) : end.start() + 1])]


def safe_to_interrupt(text: str) -> bool:
    """Whether words may be inserted at the end of an unfinished answer without breaking it.

    False inside an open code block; inside a tool call, begun or complete, or a JSON object or array that is still
    open; after the reasoning has ended (`</think>`); and once the final answer has been given (a complete box, "Final
    answer: ...", "#### ..."). An answer given inside an open `<think>` block is not final.
    """
    thinking = is_thinking(text)
    if thinking is False:
        return False
    blocks = fences(text)
    if blocks and not blocks[-1].closed:
        return False
    if any(start in text for start in _CALL_STARTS) or _CALL_TAGS.search(text) or _open_json(text, blocks):
        return False
    said = answer_part(text)
    return extract(said, "boxed") is None and not _FINAL.search(said)


def _open_json(text: str, blocks: Sequence[Fence]) -> bool:
    """Whether a JSON object (or an array that is the whole text) has begun outside code blocks and not ended."""
    whole = re.match(r"\s*[{\[]", text)
    begin = whole or next((found for found in _OBJECT.finditer(text) if not inside(found.end(), blocks)), None)
    if begin is None:
        return False
    depth = 0
    for mark in _JSON_MARKS.finditer(text, begin.start()):
        if inside(mark.start(), blocks):
            continue
        if mark[0] == '"':
            return depth > 0
        depth = max(0, depth + (mark[0] in ("{", "[")) - (mark[0] in ("}", "]")))
    return depth > 0
