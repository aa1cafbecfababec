"""What a judge or a critic decided, read from its text. Unclear is None: a failed reading is never a verdict."""

from __future__ import annotations

import math
import re
from typing import Any

from strop.strategies.kit import json_text
from strop.strategies.kit.reasoning import answer_part

_YES = ("yes", "true", "correct")
_WORD = (
    r"(?P<word>yes|no|true|false|correct|incorrect|wrong)\b(?!\s*(?:or|/|\|)\s*(?:yes|no|true|false|incorrect|wrong)\b)"
)
_LABEL = re.compile(
    r"\b(?P<final>final\s+)?(?:verdict|answer|judge?ment|conclusion|decision|result|correct\?|right\?)"
    rf"[*_\"'`]*\s*(?:is\b(?:\s*:)?|[:=]|(?<=\?))[\s*_\"'`\[(]{{0,20}}{_WORD}",
    re.IGNORECASE,
)
_FIRST = re.compile(rf"[\s*_\"'`>#\[(]*{_WORD}(?P<rest>[^\n]*)", re.IGNORECASE)
_ALONE = re.compile(rf"[\s*_\"'`>#\[(]*{_WORD}[\s*_\"'`.!\])]*", re.IGNORECASE)
_NUMBER = r"[-+−]?(?:\d+(?:\.\d+)?|\.\d+)"
_OF = rf"(?:\s*(?:/|out\s+of)\s*(?P<of{{}}>{_NUMBER}))?"
_END = r"(?![\d%])(?!\.\d)(?!\s*(?:[-–]|to\b)\s*\d)"
_SCORE = re.compile(
    r"\b(?:score|rating|grade)[*_\"'`]*(?:\s*\([^()\n]{0,40}\))?\s*(?:is\b(?:\s*:)?|of\b|[:=])[\s*_\"'`\[(]{0,20}"
    rf"(?P<labelled>{_NUMBER}){_OF.format(1)}{_END}"
    rf"|(?<![\w.\-/])(?P<ratio>{_NUMBER})\s*(?:/|out\s+of)\s*(?P<of2>{_NUMBER}){_END}(?!\s*/)",
    re.IGNORECASE,
)
_BARE = re.compile(rf"[\s*_\"'`\[(]*(?P<bare>{_NUMBER}){_OF.format(3)}[\s*_\"'`\])]*\.?\s*", re.IGNORECASE)
_YES_KEYS = ("verdict", "correct", "is_correct", "answer", "passed", "pass", "decision", "result")
_SCORE_KEYS = ("score", "rating", "grade")


def verdict_json(text: str) -> dict[str, Any] | None:
    """The JSON object that a judge answered with: the whole text, or the last one in it. Reasoning is skipped."""
    found = json_text.objects(answer_part(text))
    return found[-1] if found else None


def yes_no(text: str) -> bool | None:
    """What the text decides: yes/true/correct or no/false/incorrect/wrong; None if it does not say, or says both.

    Looked for in this order: a JSON object with a verdict; "Verdict: yes" and the like ("final" ones first); the first
    word of the text and a last line of one word, which must not disagree. "No errors found" is not a no.
    """
    part = answer_part(text)
    found = verdict_json(part) or {}
    if said := {_truth(found[key]) for key in _YES_KEYS if key in found}:
        return said.pop() if len(said) == 1 else None
    labels = list(_LABEL.finditer(part))
    labels = [label for label in labels if label["final"]] or labels
    if labels:
        return _agreed(label["word"] for label in labels)
    lines = [line for line in part.splitlines() if line.strip()]
    if not lines:
        return None
    first, last = _FIRST.match(lines[0]), _ALONE.fullmatch(lines[-1])
    opening = first if first and _is_verdict(first["word"], first["rest"]) else None
    return _agreed(match["word"] for match in (opening, last) if match)


def _is_verdict(word: str, rest: str) -> bool:
    """Whether a first word decides: "Yes it is" and "No, ..." do; "No errors" and "Correct answers are" do not."""
    return word.lower() == "yes" or not re.match(r"[ \t]+\w", rest)


def _truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    found = _ALONE.fullmatch(value) if isinstance(value, str) else None
    return found["word"].lower() in _YES if found else None


def _agreed(words: Any) -> bool | None:
    said = {word.lower() in _YES for word in words}
    return said.pop() if len(said) == 1 else None


def score(text: str, low: float, high: float) -> float | None:
    """The score that a judge gave, `low` and `high` included; None if there is none, or there are different ones.

    Read from a JSON object ({"score": 7}), from "Score: 7", "7/10" and "7 out of 10", or from a text that is a number
    alone. A score out of something else than `high`, or outside the range, makes the whole verdict None: it was given
    on another scale.
    """
    part = answer_part(text)
    found = verdict_json(part) or {}
    given: set[float | None] = {_number(found[key]) for key in _SCORE_KEYS if key in found}
    if not given:
        whole = _BARE.fullmatch(part)
        given = {_on_scale(match, high) for match in ([whole] if whole else _SCORE.finditer(part))}
    value = given.pop() if len(given) == 1 else None
    return value if value is not None and low <= value <= high else None


def _number(value: Any) -> float | None:
    if isinstance(value, str) and _BARE.fullmatch(value) and "/" not in value:
        value = float(value.strip(" *_\"'`[]()").replace("−", "-"))
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _on_scale(match: re.Match[str], high: float) -> float | None:
    """The number matched; None if it was given out of something else than `high`."""
    groups = match.groupdict()
    value = next(groups[name] for name in ("labelled", "ratio", "bare") if groups.get(name))
    scale = next((groups[name] for name in ("of1", "of2", "of3") if groups.get(name)), None)
    if scale is not None and float(scale.replace("−", "-")) != high:
        return None
    return float(value.replace("−", "-"))
