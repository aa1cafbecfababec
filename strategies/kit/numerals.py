r"""Numbers as models write them: `1,234.50`, `-3/4`, `\frac{3}{4}`, `2 1/2`, `1e-3`, `$5`, `50\%`, `5 cm`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 200
"""Longest text read as one number: enough for any answer, too short to cost time."""

MAX_EXPONENT = 300
"""Largest power of ten accepted in scientific notation; beyond it a short text would make a huge integer."""

_CURRENCY = "$€£¥₹₩₽"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_TENS = r"(?:[eE]([+-]?\d{1,4})|\s*(?:\*|×|\\times|\\cdot)\s*10\s*\^\s*(?:\{\s*([+-]?\d{1,4})\s*\}|([+-]?\d{1,4})))"
_DECIMAL = re.compile(rf"({_DIGITS}){_TENS}?")
_RATIO = re.compile(rf"(?:(\d+)\s+)?({_DIGITS})\s*/\s*({_DIGITS})")
_FRAC = re.compile(r"(\d+)?\s*\\frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)(\d))")
_UNIT = re.compile(r"(?:[^\W\d_]+(?:[\s/·.-]+[^\W\d_]+){0,2}|%|°\s?[CFK]?)(?:\^?[23²³]|\^\{[23]\})?\.?")
_SAME_UNIT = {
    "percent": "%", "percentage": "%", "pct": "%", "degree": "°", "dollar": "$", "usd": "$", "euro": "€", "eur": "€",
    "pound": "£", "yen": "¥",
}  # fmt: skip
_LATEX = [
    (re.compile(r"\\[dtc]?frac(?![a-zA-Z])\s*"), r"\\frac "),
    (re.compile(r"\\(?:left|right|displaystyle|,|;|!|:|quad|qquad)(?![a-zA-Z])"), ""),
    (re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|textit)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])"), "°"),
    (re.compile(r"\\([%$#&])"), r"\1"),
    (re.compile(r"[\u2212\u2013\ufe63\uff0d]"), "-"),
    (re.compile(r"[\u00a0\u202f\u2009~\s]+"), " "),
]


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value, in the stated `unit` ("" when there is none; "%" leaves `value` as written: 50% is 50)."""

    value: Fraction
    unit: str = ""


def tidy(text: str) -> str:
    """The text without the marks that only dress it: math delimiters, bold, LaTeX spacing, a full stop at the end."""
    text = text.strip()
    while True:
        bare = _undelimited(text).strip()
        if bare == text:
            break
        text = bare
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text.strip()


def _undelimited(text: str) -> str:
    for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`")):
        inner = text[len(left) : -len(right)]
        if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right) and left not in inner:
            return inner
    return text.rstrip(".")


def read(text: str) -> Number | None:
    """The one number that the whole text is, perhaps with a sign, a currency sign and a unit; None otherwise.

    A comma groups thousands ("1,234"); "3,14" is not a number here, since it may be two. No rounding takes place.
    """
    if len(text) > MAX_CHARS:
        return None
    text = tidy(text)
    sign, text = _signed(text)
    unit = ""
    if text[:1] in tuple(_CURRENCY):
        unit, text = text[0], text[1:].lstrip()
        if sign > 0:
            sign, text = _signed(text)
    value, end = _magnitude(text)
    rest = text[end:].strip()
    if value is None or (rest and not (_UNIT.fullmatch(rest) and not unit)):
        return None
    return Number(sign * value, unit or _unit(rest))


def _signed(text: str) -> tuple[int, str]:
    return (-1 if text[0] == "-" else 1, text[1:].lstrip()) if text[:1] in ("-", "+") else (1, text)


def _magnitude(text: str) -> tuple[Fraction | None, int]:
    """Value of the number at the start of the text, and where it ends."""
    if found := _FRAC.match(text):
        whole, top, bottom, digit_top, digit_bottom = found.groups()
        over = _divided(_plain(top or digit_top), _plain(bottom or digit_bottom))
        return (None if over is None else int(whole or 0) + over), found.end()
    if found := _RATIO.match(text):
        whole, top, bottom = found.groups()
        over = _divided(_plain(top), _plain(bottom))
        return (None if over is None else int(whole or 0) + over), found.end()
    if not (found := _DECIMAL.match(text)):
        return None, 0
    exponent = int(next((power for power in found.groups()[1:] if power), "0"))
    if abs(exponent) > MAX_EXPONENT:
        return None, 0
    return Fraction(found[1].replace(",", "")) * Fraction(10) ** exponent, found.end()


def _plain(digits: str) -> Fraction | None:
    sign, digits = _signed(digits.strip())
    return sign * Fraction(digits.replace(",", "")) if re.fullmatch(_DIGITS, digits) else None


def _divided(top: Fraction | None, bottom: Fraction | None) -> Fraction | None:
    return None if top is None or not bottom else top / bottom


def _unit(text: str) -> str:
    name = text.casefold().rstrip(".").replace("^", "").replace("{", "").replace("}", "").strip()
    name = name[:-1] if len(name) > 3 and name.endswith("s") and not name.endswith("ss") else name
    return _SAME_UNIT.get(name, name)


def write(value: Fraction) -> str:
    """One spelling per value: "12", "0.25" when it ends, "1/3" when it does not.

    A value whose decimals would be too long to read (over 40 places) is written as a fraction.
    """
    if value.denominator == 1:
        return str(value.numerator)
    places = _decimal_places(value.denominator)
    if places is None:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _decimal_places(denominator: int) -> int | None:
    places = 0
    while denominator % 10 == 0:
        denominator, places = denominator // 10, places + 1
    while denominator % 2 == 0 or denominator % 5 == 0:
        denominator, places = denominator // (2 if denominator % 2 == 0 else 5), places + 1
    return places if denominator == 1 and places <= 40 else None
