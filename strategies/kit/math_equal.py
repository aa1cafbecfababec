r"""Whether two answers are the same: exactly (numbers, text), or as mathematics (`(x+1)^2` and `x^2+2x+1`).

The exact comparison is pure and cheap. The mathematical one asks math-verify in a process of
its own, because a comparison can hang inside C code or eat all memory: thirty nested braces are enough. The event loop
only waits; the process is killed when a comparison is over its limit, when the caller is cancelled, and when the
event loop is gone. An answer that cannot be read within the limit equals only what is written the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import overload

from strop.strategies.kit import numerals
from strop.strategies.kit.math_pool import Pool, Worker, pool

MAX_CHARS = 300
"""Longer answers are compared as text only."""

SECONDS = 2.0
"""Processor time for one comparison."""

SLACK = 10
"""The wall clock allows so many times as much, so that a busy machine changes no answer."""

PATIENCE = 3
"""One call of `group` may use so many times `seconds` of processor time; then it compares exactly only."""

_WORDS = re.compile(r"[^\W\d_]{3,}")
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]*\}|\\[a-zA-Z]+|(?:sin|cos|tan|log|exp|sqrt|max|min|gcd|lcm|mod)\b")
_FUNCTION = re.compile(r"(?<![\\a-zA-Z])(sin|cos|tan|log|ln|exp|pi|infty)(?![a-zA-Z])")
_ROOT = re.compile(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)")
_SIGNS = str.maketrans({"×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "≤": r"\le ",
                        "≥": r"\ge ", "∪": r"\cup ", "²": "^2", "³": "^3"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Reading:
    """An answer, the number it is, and its text without what does not matter."""

    answer: str
    number: numerals.Number | None
    text: str

    @classmethod
    def of(cls, answer: str) -> _Reading:
        tidy = " ".join(numerals.tidy(answer).split())
        wordy = _WORDS.search(tidy) and "\\" not in tidy
        return cls(answer, numerals.read(answer), tidy.casefold() if wordy else tidy.replace(" ", ""))

    def same(self, other: _Reading) -> bool:
        """The rule of `same_answer`."""
        left, right = self.number, other.number
        if left is None or right is None:
            return left is right and self.text == other.text
        if left.unit and right.unit:
            return left == right
        return left.value == right.value or _hundredth(left) == _hundredth(right)


def same_answer(a: str, b: str) -> bool:
    """Whether two answers are exactly the same: equal numbers, or equal text. Pure, symmetric, reflexive, never slow.

    Numbers are compared as exact fractions, so 0.5 is 1/2 and 0.333 is not 1/3. Units differ only if both have
    one. A percentage equals the bare number and its hundredth (50% is 50 and 0.5). Text is compared without case if it
    consists of words, without surrounding math delimiters, and with runs of spaces as one.
    """
    return _Reading.of(a).same(_Reading.of(b))


def _hundredth(number: numerals.Number) -> Fraction:
    return number.value / 100 if number.unit == "%" else number.value


async def equivalent(a: str, b: str, *, seconds: float = SECONDS) -> bool:
    """Whether two answers are the same, exactly or as mathematics. Symmetric and reflexive.

    Not equal when math-verify cannot read one of them, or it takes over `seconds` of processor time or
    too much memory. Raises ScorerError if the worker cannot be started.
    """
    ids = await group([a, b], seconds=seconds)
    return ids[0] == ids[1]


@overload
async def group(answers: Sequence[str], *, seconds: float = SECONDS) -> list[int]: ...
@overload
async def group(answers: Sequence[str | None], *, seconds: float = SECONDS) -> list[int | None]: ...
async def group(answers: Sequence[str | None], *, seconds: float = SECONDS) -> Sequence[int | None]:
    """A number per answer, the same for the same answers: 0 for the first seen, then 1, 2 ... None stays None.

    An answer joins the first group whose first member it equals. `seconds` bounds one comparison; see `equivalent`.
    """
    firsts: list[_Reading] = []
    ids: list[int | None] = []
    known: dict[str, int] = {}
    async with _Session(seconds) as session:
        for answer in answers:
            if answer is not None and answer not in known:
                reading = _Reading.of(answer)
                place = await _place(reading, firsts, session)
                known[answer] = len(firsts) if place is None else place
                if place is None:
                    firsts.append(reading)
            ids.append(None if answer is None else known[answer])
    return ids


async def _place(reading: _Reading, firsts: list[_Reading], session: _Session) -> int | None:
    """Index of the first member that equals the answer: exactly if there is one, else as mathematics."""
    exact = next((i for i, first in enumerate(firsts) if reading.same(first)), None)
    if exact is not None:
        return exact
    for i, first in enumerate(firsts):
        if not (reading.number and first.number) and await session.equal(reading.answer, first.answer):
            return i
    return None


def mathematical(answer: str) -> str | None:
    """The answer as LaTeX for math-verify; None when it is too long or does not look like mathematics.

    Words are kept away: math-verify would read them as products of letters, and "listen" would equal "silent".
    """
    if len(answer) > MAX_CHARS or '"' in answer:
        return None
    latex = numerals.tidy(answer).translate(_SIGNS).replace("**", "^")
    if _WORDS.search(_COMMAND.sub(" ", latex)) or not re.search(r"[\d\\^=+*/<>()\[\]-]", latex):
        return None
    return _FUNCTION.sub(r"\\\1 ", _ROOT.sub(r"\\sqrt{\1}", latex))


@dataclass(slots=True)
class _Session:
    """The comparisons of one call: at most one worker, borrowed when first needed, and the processor time they took."""

    seconds: float
    spent: float = 0.0
    readable: dict[str, bool] = field(default_factory=dict)
    _worker: Worker | None = None
    _pool: Pool | None = None

    async def __aenter__(self) -> _Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.give_back(self._worker)

    async def equal(self, a: str, b: str) -> bool:
        """Whether two answers that differ exactly are equal as mathematics."""
        left, right = mathematical(a), mathematical(b)
        if left is None or right is None or not await self._reads(left) or not await self._reads(right):
            return False
        return await self._ask(*sorted((left, right)))

    async def _reads(self, latex: str) -> bool:
        if latex not in self.readable:
            self.readable[latex] = await self._ask(latex)
        return self.readable[latex]

    async def _ask(self, *texts: str) -> bool:
        if self.spent >= PATIENCE * self.seconds:
            return False
        if self._pool is None:
            mine = pool()
            await mine.room.acquire()
            self._pool = mine
        if self._worker is None:
            self._worker = await self._pool.take(self.seconds)
        says, _, took = (await self._worker.exchange(json.dumps(texts), SLACK * self.seconds)).partition(" ")
        self.spent += float(took or self.seconds)
        if not says:
            self._worker = None
        return says == "yes"
