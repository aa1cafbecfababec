"""Verifiers that compare an answer with what the request expects: a pattern, or a mathematical result."""

from __future__ import annotations

import re
from functools import partial

import anyio
import anyio.to_process

from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.fan import fan_out
from strop.strategies.kit.math_equal import equivalent
from strop.strategies.kit.ops import Verified, Verify
from strop.strategies.kit.parse import extract
from strop.strategies.kit.types import Verdict

MOST_SECONDS = 5.0
"""Wall time for one search of a client's pattern."""

MOST_CHARS = 2000
"""Longest pattern or expected answer."""


async def regex(op: Verify) -> Verified:
    """Does `spec["pattern"]` match somewhere in the text, or all of it with `spec["whole"]`?

    Python's syntax. It runs in a process that is killed when it takes too long; then there is no verdict.
    """
    pattern = text_of(op, "pattern", MOST_CHARS)
    whole = op.spec.get("whole", False)
    if not isinstance(whole, bool):
        raise BadRequest("the verifier's 'whole' must be true or false", param="strop.spec")

    async def one(i: int) -> Verdict:
        with anyio.move_on_after(MOST_SECONDS):
            search = partial(_search, pattern, op.drafts[i].text, whole)
            found = await anyio.to_process.run_sync(search, cancellable=True)
            if isinstance(found, str):
                raise BadRequest(f"not a valid pattern: {found}"[:200], param="strop.spec")
            return Verdict(found, "" if found else f"the text does not match the pattern {pattern}")
        return Verdict(None, f"the pattern took longer than {MOST_SECONDS:g} seconds")

    return Verified(tuple(await fan_out(one, len(op.drafts))))


async def math_equal(op: Verify) -> Verified:
    """Is the final answer `spec["expected"]`, exactly or as mathematics? No verdict where no final answer is found."""
    expected = text_of(op, "expected", MOST_CHARS)

    async def one(i: int) -> Verdict:
        answer = extract(op.drafts[i].text)
        if answer is None:
            return Verdict(None, "no final answer was found")
        same = await equivalent(answer.raw, expected)
        return Verdict(same, "" if same else f"the final answer {answer.raw} is wrong")

    return Verified(tuple(await fan_out(one, len(op.drafts))))


def text_of(op: Verify, name: str, most: int) -> str:
    """The verifier's parameter `name`, a text that is not empty."""
    value = op.spec.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"the verifier '{op.by}' needs a text '{name}' in spec", param="strop.spec")
    if len(value) > most:
        raise BadRequest(f"the verifier's '{name}' is longer than {most} characters", param="strop.spec")
    return value


def _search(pattern: str, text: str, whole: bool) -> bool | str:
    """Whether it matches; a text says what is wrong with the pattern."""
    try:
        compiled = re.compile(pattern)
        return bool(compiled.fullmatch(text) if whole else compiled.search(text))
    except (re.error, RecursionError, OverflowError) as wrong:
        return str(wrong)
