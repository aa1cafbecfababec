"""Equal answers: exactly, and as mathematics without ever hanging the event loop."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies.kit import math_pool, math_worker, numerals
from strop.strategies.kit.errors import ScorerError
from strop.strategies.kit.math_equal import PATIENCE, equivalent, group, mathematical, same_answer

POWER = "9**9**9**9"
BRACES = "{" * 40 + "1" + "}" * 40
HOSTILE = {"9^{9^{9^{9}}}": 0.2, "10000000000!": 0.2, BRACES: 1.0}
"""Answers that never come to an end, with the seconds that they get."""

NUMBERS = st.fractions(max_denominator=1000) | st.integers(-(10**12), 10**12).map(Fraction)
ANSWERS = st.text(max_size=30) | st.sampled_from(
    ["1/2", "0.5", "50%", "50", "5 cm", "5", "A", "(A)", "$x$", r"\pi", ""]
)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1,234", "1234"),
        ("0.50", "1/2"),
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac34", "3/4"),
        (r"-\frac{1}{2}", "-0.5"),
        ("2 1/2", "2.5"),
        ("1e3", "1000"),
        (r"1.5 \times 10^{3}", "1500"),
        ("$5", "5"),
        (r"\$5.00", "5 dollars"),
        ("5 cm", "5"),
        (r"5\text{ cm}", "5 cm"),
        ("3 apples", "3 apple"),
        ("50%", "50"),
        (r"50\%", "0.5"),
        ("\u22127", "-7"),
        ("**42**.", "42"),
        ("$x + 1$", r"\(x+1\)"),
        ("Paris.", "paris"),
        ("New  York", "new york"),
    ],
)
def test_one_answer_in_two_spellings_is_the_same(a: str, b: str) -> None:
    assert same_answer(a, b)
    assert same_answer(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("5 cm", "5 m"),
        ("10 am", "10 pm"),
        ("1/3", "0.333"),
        ("50", "0.5"),
        ("1", "one"),
        ("3,14", "314"),
        ("1 2", "12"),
        ("x", "X"),
        ("", "0"),
        ("listen", "silent"),
        ("1e999999999", "1"),
        ("1/0", "0"),
        ("A", "B"),
    ],
)
def test_different_answers_are_not_the_same(a: str, b: str) -> None:
    assert not same_answer(a, b)
    assert not same_answer(b, a)


@given(ANSWERS, ANSWERS)
@settings(deadline=None)
def test_sameness_is_reflexive_and_symmetric(a: str, b: str) -> None:
    assert same_answer(a, a)
    assert same_answer(a, b) == same_answer(b, a)


@given(NUMBERS)
@settings(deadline=None)
def test_a_number_written_is_read_as_the_same_number(value: Fraction) -> None:
    assert numerals.read(numerals.write(value)) == numerals.Number(value)


def test_a_number_has_one_spelling() -> None:
    values = [Fraction(12), Fraction(1, 4), Fraction(-1, 3), Fraction(1, 2**60), Fraction(0)]
    assert [numerals.write(value) for value in values] == ["12", "0.25", "-1/3", f"1/{2**60}", "0"]


@pytest.mark.parametrize(
    "text", ["", "abc", "1,23", "1.2.3", "5 + 3", "5 and 6 or 7 or 8", "1/0", "1e400", "9" * 500, "$5 cm"]
)
def test_what_is_not_one_number_is_not_read_as_one(text: str) -> None:
    assert numerals.read(text) is None


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The worker processes that the test starts."""
    processes: list[subprocess.Popen[bytes]] = []

    class Watched(math_pool.Worker):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            processes.append(self.process)

    monkeypatch.setattr(math_pool, "Worker", Watched)
    yield processes
    for process in processes:
        process.kill()
        process.wait()


async def test_answers_that_are_equal_as_mathematics_are_grouped() -> None:
    answers = [
        r"\frac{\sqrt{3}}{2}",
        "x^2+2x+1",
        None,
        r"\sqrt{3}/2",
        "(x+1)^2",
        "sqrt(3)/2",
        "1/2",
        r"\frac12",
        "x^2",
        None,
    ]
    assert await group(answers) == [0, 1, None, 0, 1, 0, 2, 2, 3, None]
    assert await group([]) == []


async def test_equivalence_is_mathematical_and_symmetric() -> None:
    cases = {
        (r"\{1,2\}", r"\{2,1\}"): True,
        ("(1,2)", "(2,1)"): False,
        ("x=3", "3"): True,
        ("(1,2)", "1<x<2"): True,
        (r"2\pi", "π*2"): True,
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"): True,
        ("(x-1)(x+1)", "x^2-1"): True,
        ("sin(x)", r"\sin x"): True,
        ("x^2", "x^3"): False,
        ("listen", "silent"): False,
        ("__import__('os').system('x')", "1"): False,
    }
    assert {(a, b): await equivalent(a, b) for a, b in cases} == cases
    assert {(a, b): await equivalent(b, a) for a, b in cases} == cases


async def test_exact_answers_need_no_process(started: list[subprocess.Popen[bytes]]) -> None:
    assert await group(["1/2", "0.5", "7", "Paris", "paris", "the year 1900 AD", "x" * 5000 + "1"]) == [
        0,
        0,
        1,
        2,
        2,
        3,
        4,
    ]
    assert started == []


async def test_many_calls_share_one_process(started: list[subprocess.Popen[bytes]]) -> None:
    for _ in range(3):
        assert await equivalent("x+y", "y+x", seconds=3.1)
    assert len(started) == 1
    assert started[0].poll() is None


async def test_calls_at_once_use_few_processes(started: list[subprocess.Popen[bytes]]) -> None:
    replies: list[bool] = []

    async def ask() -> None:
        replies.append(await equivalent("a+b", "b+a", seconds=3.2))

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(ask)
    assert replies == [True] * 6
    assert len(started) <= math_pool.WORKERS


@pytest.mark.skipif(sys.platform == "win32", reason="the worker's own clock needs POSIX timers")
async def test_a_hostile_answer_equals_nothing_else_while_the_loop_keeps_ticking(
    started: list[subprocess.Popen[bytes]],
) -> None:
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await anyio.sleep(0.01)
            longest = max(longest, time.perf_counter() - began)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        for hostile, seconds in HOSTILE.items():
            with anyio.fail_after(20):
                assert not await equivalent(hostile, "x+1", seconds=seconds)
            assert len(started) == 1
            assert started.pop().returncode in (-signal.SIGPROF, -signal.SIGKILL), "over its limit: dead and reaped"
            assert await equivalent(hostile, hostile)
        assert not await equivalent(POWER, "x+1", seconds=0.2)
        tasks.cancel_scope.cancel()
    assert longest < 0.8


async def test_innocent_answers_are_still_compared_after_a_hostile_one(started: list[subprocess.Popen[bytes]]) -> None:
    assert await group(["x+y", BRACES, "y+x", "y+x+0"], seconds=0.5) == [0, 1, 0, 0]


async def test_many_hostile_answers_cost_bounded_time(started: list[subprocess.Popen[bytes]]) -> None:
    answers = [f"{BRACES}+{n}" for n in range(40)]
    assert await group(answers, seconds=0.05) == list(range(40))
    assert len(started) <= PATIENCE


async def test_a_cancelled_caller_leaves_no_process_behind(started: list[subprocess.Popen[bytes]]) -> None:
    began = time.perf_counter()
    await equivalent("x+y", "y+x", seconds=30)
    with anyio.move_on_after(0.3) as scope:
        await equivalent(BRACES, "x+1", seconds=30)
    assert scope.cancelled_caught
    assert time.perf_counter() - began < 10
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    assert await equivalent("x+y", "y+x", seconds=30), "the pool has room again"


def test_the_memory_of_a_process_is_bounded_and_it_ends_with_the_event_loop(
    started: list[subprocess.Popen[bytes]],
) -> None:
    async def limits_of_a_worker() -> str:
        assert await equivalent("x+y", "y+x")
        return await anyio.Path(f"/proc/{started[0].pid}/limits").read_text() if sys.platform == "linux" else ""

    limits = anyio.run(limits_of_a_worker)
    deadline = time.monotonic() + 10
    while started[0].poll() is None and time.monotonic() < deadline:
        gc.collect()  # a thread of the loop may hold it for a moment longer
        time.sleep(0.01)
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    if limits:
        [line] = [line for line in limits.splitlines() if line.startswith("Max address space")]
        assert line.split()[3:5] == [str(math_pool.MEGABYTES << 20)] * 2


async def test_a_worker_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(math_pool, "__file__", str(tmp_path / "math_pool.py"))
    with pytest.raises(ScorerError, match="did not start"):
        await equivalent("x+y", "y+x", seconds=3.3)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX timers")
def test_a_worker_without_a_parent_still_ends() -> None:
    """The kernel ends a comparison that nobody waits for, and the end of stdin ends an idle worker."""
    command = [sys.executable, "-P", str(Path(math_worker.__file__)), "0.3", "768"]
    busy = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert busy.stdin is not None
    busy.stdin.write(json.dumps([BRACES]).encode() + b"\n")
    busy.stdin.flush()
    assert busy.wait(timeout=20) == -signal.SIGPROF
    busy.stdin.close()
    assert subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=20).returncode == 0


def test_words_are_not_mathematics() -> None:
    texts = ["listen", "the year 1900", '{"a":1}', "AB", "1" * 400]
    assert [mathematical(text) for text in texts] == [None] * 5
    assert mathematical("$sqrt(2)**x$") == r"\sqrt{2}^x"
