r"""Read the final answer out of a text, and the verdict out of a judge's text. The unreadable is None, never 0 or "".

`extract` looks outside `<think>` blocks only. Its `kind` says where the answer may stand:

    boxed    the last complete \boxed{...}
    stated   "Final answer: ...", "The answer is ...", "#### ..."; the last one
    number   the number in one of these two, else the last number of the text
    choice   the letter in one of these two, else the last line that is a letter, else the last letter in brackets
    json     the whole text, or its last code block
    line     the last line
    auto     boxed, stated, json, or the whole text if that is one short line

Equal canonical forms are equal answers; unequal ones may still be (see `math_equal`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from strop.strategies.kit import json_text, numerals
from strop.strategies.kit.reasoning import answer_part
from strop.strategies.kit.steps import fences
from strop.strategies.kit.verdicts import score, verdict_json, yes_no

__all__ = ["Answer", "Found", "Kind", "canonical_call", "extract", "score", "verdict_json", "yes_no"]

Found = Literal["boxed", "stated", "number", "choice", "json", "line"]
Kind = Literal["auto", "boxed", "stated", "number", "choice", "json", "line"]

MAX_CHARS = 2000
"""A boxed, stated or one-line answer longer than this is not an answer but a text."""

MAX_STATED = 64
"""Only so many of the last places that state an answer are looked at."""

SHORT = 80
"""A one-line text of at most so many characters is itself the answer, for the kind "auto"."""

_DRESS = " \t\r*_"
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_STATED = re.compile(
    r"^[ \t]*####[ \t]*(?=(?P<hashes>[^\n]{0,2000}))"
    r"|\bfinal[ \t]+answer\b[*_ \t]{0,8}(?:\([^()\n]{0,40}\)[*_ \t]{0,8})?(?::|=|\bis\b:?|$)[*_]{0,4}"
    r"(?=(?P<final>[^\n]{0,2000}))"
    r"|\banswer\b[^\n.:=]{0,80}?(?:[*_]{0,4}[ \t]{0,4}(?::|=)|\bis\b:?)[*_]{0,4}(?=(?P<plain>[^\n]{0,2000}))",
    re.IGNORECASE | re.MULTILINE,
)
_NO_ANSWER = re.compile(
    r"(?:not|correct|incorrect|wrong|right|unclear|unknown|as follows|therefore|below|above|the same)\b", re.IGNORECASE
)
_REASON = re.compile(r",?\s+(?:because|since|which|where)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?][*_]*(?:\s+(?=[A-Z(\\])|$)")
_NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-+−])?[$€£¥]?(?<![\w.])(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?"
    r"(?:\s?/\s?\d+(?:\.\d+)?)?(?:\s?%)?"
)
_LETTER = r"(?:\(\s*(?P<{0}in>[A-Ja-j])\s*\)|(?P<{0}>[A-J]))"
_STATED_LETTER = re.compile(
    r"[\s*_:\"'$]*(?:(?:option|choice|letter)\s*)?[*_\"'$]*" + _LETTER.format("s") + r"(?P<rest>(?![\w']).*)", re.DOTALL
)
_ARTICLE = re.compile(r"[ \t]+(?!because\b|since\b|as\b|is\b|and\b|or\b)[a-z]")
_ANOTHER = re.compile(r"[*_)]*\s*(?:,|/|&|and\b|or\b)\s*[*_]*\(?[A-J]\b(?!')")
_LINE_LETTER = re.compile(
    r"^[ \t>*_#-]*(?:option\s+|choice\s+)?" + _LETTER.format("l") + r"(?:[.):]?[*_ \t]*$|[.):][*_]*[ \t])",
    re.MULTILINE | re.IGNORECASE,
)
_IN_BRACKETS = re.compile(r"\(([A-J])\)")


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer: `kind` tells where it was found, `raw` is the text there, `canonical` is one spelling of it."""

    kind: Found
    raw: str
    canonical: str


def extract(text: str, kind: Kind = "auto") -> Answer | None:
    """The final answer of a text, found as `kind` says (see the module); None if there is none. Raises on no text."""
    part = answer_part(text)
    if kind != "auto":
        return _FINDERS[kind](part)
    return _boxed(part) or _stated(part) or _json(part) or _short(part)


def _boxed(text: str) -> Answer | None:
    """Braces nest and may be escaped; an empty or unfinished box does not count. One pass, whatever the text."""
    open_braces: list[tuple[int, bool]] = []
    last: tuple[int, int] | None = None
    for mark in _BRACES.finditer(text):
        if mark[0].endswith("{") and mark[0] != r"\{":
            open_braces.append((mark.end(), len(mark[0]) > 1))
        elif mark[0] == "}" and open_braces:
            start, is_box = open_braces.pop()
            if is_box and text[start : mark.start()].strip() and (last is None or start > last[0]):
                last = start, mark.start()
    return _answer("boxed", text[slice(*last)]) if last else None


def _stated(text: str) -> Answer | None:
    for match in reversed(list(_STATED.finditer(text))[-MAX_STATED:]):
        said = next(group for group in match.groups() if group is not None).strip(_DRESS)
        said = _until_its_end(said or _next_lines(text[match.end() : match.end() + MAX_CHARS]))
        if said and not _NO_ANSWER.match(said):
            return _answer("stated", said)
    return None


def _next_lines(rest: str) -> str:
    """What stands under a heading: the content of a display formula, or the first line that is not empty."""
    rest = rest.strip(_DRESS + "\n")
    for left, right in ((r"\[", r"\]"), ("$$", "$$")):
        if rest.startswith(left):
            inner, closed, _ = rest[len(left) :].partition(right)
            return inner.strip() if closed else ""
    return rest.partition("\n")[0].strip(_DRESS)


def _until_its_end(said: str) -> str:
    """Without the sentences and reasons that follow the answer. The full stop of an initial ("S. Grant") is no end."""
    for end in _SENTENCE_END.finditer(said):
        if not re.search(r"(?:^|[\s.])[^\W\d_]$", said[: end.start()]):
            said = said[: end.start()]
            break
    return _REASON.split(said, maxsplit=1)[0].strip(" \t*_,;\"'")


def _number(text: str) -> Answer | None:
    for found in (_boxed(text), _stated(text)):
        if found is not None:
            whole = numerals.read(found.raw)
            plain = _first_number(found.raw.rpartition("=")[2])
            return _as_number(found.raw, whole.value) if whole else plain
    numbers = list(_NUMBER.finditer(text))
    return _first_number(numbers[-1][0]) if numbers else None


def _first_number(text: str) -> Answer | None:
    match = _NUMBER.search(numerals.tidy(text[:MAX_CHARS]))
    number = numerals.read(match[0]) if match else None
    return _as_number(match[0], number.value) if match and number else None


def _as_number(raw: str, value: Fraction) -> Answer:
    return Answer("number", raw, numerals.write(value))


def _choice(text: str) -> Answer | None:
    for found in (_boxed(text), _stated(text)):
        if found is not None and (letter := _stated_letter(found.raw)):
            return letter
    for pattern in (_LINE_LETTER, _IN_BRACKETS):
        letters = [next(group for group in match.groups() if group) for match in pattern.finditer(text)]
        if letters:
            return Answer("choice", letters[-1], letters[-1].upper())
    return None


def _stated_letter(said: str) -> Answer | None:
    """The letter that the text begins with, unless it is the article "A", the pronoun "I", or one of several."""
    match = _STATED_LETTER.match(numerals.tidy(said[:MAX_CHARS]))
    if match is None or _ANOTHER.match(match["rest"]):
        return None
    letter = match["sin"] or match["s"]
    if match["s"] in ("A", "I") and _ARTICLE.match(match["rest"]):
        return None
    return Answer("choice", letter, letter.upper())


def _json(text: str) -> Answer | None:
    blocks = [block for block in fences(text) if block.closed]
    last = blocks[-1] if blocks and blocks[-1].info.lower() in ("", "json") else None
    for raw in (text.strip(), last.body.strip() if last else ""):
        if raw[:1] in ("{", "[") and raw[-1] in ("}", "]"):
            try:
                return Answer("json", raw, json_text.canonical(json_text.read(raw)))
            except (ValueError, RecursionError):
                continue
    return None


def _line(text: str) -> Answer | None:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return _answer("line", lines[-1]) if lines else None


def _short(text: str) -> Answer | None:
    whole = text.strip()
    unread = re.search(r"\\boxed|\\fbox|####|\banswer\b|^[{\[]", whole, re.IGNORECASE)
    return _answer("line", whole) if "\n" not in whole and len(whole) <= SHORT and not unread else None


def _answer(kind: Found, raw: str) -> Answer | None:
    raw = raw.strip()
    canonical = _canonical(raw) if len(raw) <= MAX_CHARS else ""
    return Answer(kind, raw, canonical) if canonical else None


def _canonical(raw: str) -> str:
    """Numbers and letters in one spelling, words without case, anything else without the marks that dress it."""
    number = numerals.read(raw)
    if number is not None:
        return f"{numerals.write(number.value)} {number.unit}".strip()
    tidy = " ".join(numerals.tidy(raw).split())
    if letter := re.fullmatch(r"\(([A-Ja-j])\)|([A-J])[.)]?", tidy):
        return (letter[1] or letter[2]).upper()
    return tidy.casefold() if re.fullmatch(r"[^\W\d_]{2,}(?:[\s,'’-]+[^\W\d_]+)*", tidy) else tidy


_FINDERS: dict[Found, Callable[[str], Answer | None]] = {
    "boxed": _boxed,
    "stated": _stated,
    "number": _number,
    "choice": _choice,
    "json": _json,
    "line": _line,
}


def canonical_call(name: str, arguments_json: str) -> str | None:
    """A tool call in one spelling, "name({...})": equal calls give equal text, and 1 and 1.0 are equal.

    None if there is no name, or the arguments are not one JSON object with unique keys and finite numbers.
    """
    try:
        arguments = json_text.read(arguments_json)
    except ValueError:
        return None
    return f"{name}({json_text.canonical(arguments)})" if name and isinstance(arguments, dict) else None
