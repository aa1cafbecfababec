"""Where an unfinished answer may be cut back, and whether it may be interrupted at all (iterative deepening)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from strop.strategies.kit.reasoning import answer_part, is_thinking
from strop.strategies.kit.steps import Fence, fences, inside

_PARAGRAPH_END = re.compile(r"\n(?:[ \t\r]*\n)+")
_SENTENCE_END = re.compile(r"[.!?。！？][\"')\]*_”’]*(?=\s|$)")
_ABBREVIATION = r"[A-Z]|e\.g|i\.e|cf|vs|etc|Dr|Mr|Mrs|Ms|Prof|No|Fig|Eq|approx"
_NO_SENTENCE_END = re.compile(rf"(?:(?:^|[\s(])(?:{_ABBREVIATION})|(?:^|\n) {{0,3}}\d{{1,3}})\.$")
_FINAL = re.compile(
    r"\bfinal[ \t]+answer\b[*_ \t]*(?::|=|is\b|\n)\s*[*_:]*\s*[^\s*_:]|^[ \t]*####[ \t]*\S|\\(?:boxed|fbox)\s*\{",
    re.IGNORECASE | re.MULTILINE,
)
_CALL_TAGS = re.compile(r"</?(?:tool_calls?|function_call|function)\b[^<>]{0,80}>", re.IGNORECASE)
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
    start = max(1, len(text) - within)
    blocks = fences(text)
    for ends in (_paragraph_ends(text, start), _sentence_ends(text, start)):
        places = [end for end in ends if not inside(end, blocks)]
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
    for ends in (_paragraph_ends(text, start), _sentence_ends(text, start)):
        places = [end for end in ends if end in token_of and end > 0 and not inside(end, blocks)]
        if places:
            return token_of[max(places)]
    return None


def _paragraph_ends(text: str, start: int) -> list[int]:
    """Every place from `start` on that is right behind a blank line."""
    gaps = ((max(start, gap.start() + 2), gap.end()) for gap in _PARAGRAPH_END.finditer(text) if gap.end() >= start)
    return [place for begin, end in gaps for place in range(begin, end + 1) if text[place - 1] == "\n"]


def _sentence_ends(text: str, start: int) -> list[int]:
    """Every place from `start` on that is right behind a sentence."""
    ends = (end for end in _SENTENCE_END.finditer(text) if end.end() >= start)
    return [end.end() for end in ends if not _NO_SENTENCE_END.search(text[max(0, end.start() - 8) : end.start() + 1])]


def safe_to_interrupt(text: str) -> bool:
    """Whether words may be inserted at the end of an unfinished answer without breaking it.

    False inside an open code block; inside a tool call, begun or complete, or a JSON object or array that is still
    open; after the reasoning has ended (`</think>`); and once the final answer has been begun (a box, "Final answer:
    ...", "#### ..."). An answer given inside an open `<think>` block is not final.
    """
    thinking = is_thinking(text)
    if thinking is False:
        return False
    blocks = fences(text)
    if blocks and not blocks[-1].closed:
        return False
    if any(start in text for start in _CALL_STARTS) or _CALL_TAGS.search(text) or _open_json(text, blocks):
        return False
    return not _FINAL.search(answer_part(text))


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
