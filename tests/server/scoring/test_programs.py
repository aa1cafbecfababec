"""Programs in the sandbox: verdicts, and what they cannot do to the machine."""

from __future__ import annotations

import shutil
import socket
import time

import anyio
import pytest

from strop.server.scoring import sandbox
from strop.server.scoring.programs import Programs, code_of
from strop.server.scoring.sandbox import Sandbox
from strop.strategies.kit.errors import BadRequest, MissingCapability, ScorerError
from strop.strategies.kit.ops import Verify
from strop.strategies.kit.types import Chat, Draft

boxed = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def small(**more):
    return Programs(Sandbox(seconds=more.pop("seconds", 5.0), megabytes=256, **more))


async def judged(texts, tests, programs=None):
    op = Verify(Chat(), tuple(map(Draft, texts)), "python_tests", {"tests": tests})
    return (await (programs or small()).python_tests(op)).verdicts


async def checked_by(program, text="", programs=None):
    op = Verify(Chat(), (Draft(text),), "program", {"program": program})
    [verdict] = (await (programs or small()).program(op)).verdicts
    return verdict


@boxed
async def test_only_code_that_passes_all_tests_passes():
    answers = [
        "Sure:\n```python\ndef f(x):\n    return x + 1\n```\nDone.",
        "def f(x): return x",
        "def f(x: return",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
    ]
    right, wrong, broken, left, fled = await judged(answers, "assert f(1) == 2, 'f(1) is not 2'")
    assert right.ok is True
    assert [v.ok for v in (wrong, broken, left, fled)] == [False] * 4
    assert "f(1) is not 2" in wrong.evidence
    assert "SyntaxError" in broken.evidence


@boxed
async def test_code_that_does_not_end_fails_its_tests_in_time():
    began = time.monotonic()
    [verdict] = await judged(["while True: pass"], "pass", small(seconds=1.0))
    assert verdict.ok is False
    assert "longer than 1 seconds" in verdict.evidence
    assert time.monotonic() - began < 15


@boxed
@pytest.mark.parametrize(
    ("program", "ok"),
    [
        ("import sys; assert sys.stdin.read() == 'the answer'", True),
        ("import sys; sys.exit(0)", True),
        ("import sys; print('too long'); sys.exit(1)", False),
        ("assert False, 'too long'", False),
        ("import sys; sys.exit(3)", None),
        ("1/0", None),
        ("while True: pass", None),
    ],
)
async def test_a_program_accepts_refuses_or_gives_no_verdict(program, ok):
    verdict = await checked_by(program, "the answer", small(seconds=1.0))
    assert verdict.ok is ok
    assert ok is not False or "too long" in verdict.evidence


@boxed
@pytest.mark.parametrize(
    ("attack", "error"),
    [
        ("import socket; socket.create_connection(('192.0.2.1', 80), 1)", "OSError: [Errno 101]"),
        ("import os; os.fork()", "PermissionError"),
        ("import subprocess; subprocess.run(['/usr/bin/true'])", "PermissionError"),
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("open('/proc/self/environ')", "FileNotFoundError"),
        ("open('/here', 'w')", "OSError"),
        ("bytearray(10 ** 9)", "MemoryError"),
        ("f = open('/tmp/x', 'wb', 0)\nfor _ in range(100): f.write(b'x' * 2 ** 20)", "OSError"),
        ("for i in range(100):\n with open(f'/tmp/{i}', 'wb') as f: f.write(b'x' * 2 ** 20)", "OSError"),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "ValueError"),
        (f"open({__file__!r})", "FileNotFoundError"),
    ],
)
async def test_a_program_cannot_reach_out_of_the_sandbox(attack, error):
    verdict = await checked_by(attack)
    assert verdict.ok is None
    assert verdict.evidence.splitlines()[-1].startswith(error)


@boxed
async def test_a_program_does_not_reach_the_servers_own_ports():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        verdict = await checked_by(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)")
    assert "ConnectionRefusedError" in verdict.evidence


@boxed
async def test_a_program_sees_no_environment_and_no_user(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    code = "import os; assert 'SECRET_KEY' not in os.environ; assert os.getuid() == 65534"
    assert (await checked_by(code)).ok is True


@boxed
async def test_threads_are_allowed():
    code = "import threading; t = threading.Thread(target=print); t.start(); t.join()"
    assert (await checked_by(code)).ok is True


@boxed
async def test_endless_output_is_neither_kept_nor_waited_for():
    verdict = await checked_by("while True: print('x' * 10000)", programs=small(seconds=1.0))
    assert verdict.ok is None
    assert len(verdict.evidence) <= sandbox.KEPT


@boxed
async def test_a_cancelled_check_ends_its_program():
    began = time.monotonic()
    with anyio.move_on_after(0.5):
        await checked_by("while True: pass", programs=small(seconds=60.0))
    assert time.monotonic() - began < 10


@boxed
async def test_a_sandbox_that_does_not_start_is_an_error_not_a_verdict(monkeypatch):
    monkeypatch.setattr(sandbox, "RUNNER", sandbox.RUNNER.with_name("nothing.py"))
    with pytest.raises(ScorerError, match="did not start"):
        await checked_by("pass")


async def test_without_bubblewrap_programs_are_refused(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(MissingCapability, match="bubblewrap is not installed"):
        await checked_by("pass")


async def test_programs_are_off_unless_the_operator_says_so():
    for check in (checked_by("pass", programs=Programs()), judged(["x"], "pass", Programs())):
        with pytest.raises(MissingCapability, match=r"set verifiers\.sandbox") as refused:
            await check
        assert refused.value.capability == "sandbox"


@pytest.mark.parametrize("spec", [{}, {"tests": 1}, {"tests": "x" * 100_000}])
async def test_tests_that_are_missing_or_too_long_are_the_clients_fault(spec):
    with pytest.raises(BadRequest, match="'tests'"):
        await small().python_tests(Verify(Chat(), (Draft("x"),), "python_tests", spec))


def test_the_code_of_an_answer_is_its_python_blocks_or_all_of_it():
    assert code_of("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```\n```sh\nls\n```") == "x = 1\n\ny = 2\n"
    assert code_of("x = 1") == "x = 1"
