"""The guards in conftest.py do stop a test that leaves the machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
CASES = """
import socket
import pytest

def test_direct():
    socket.create_connection(("192.0.2.1", 80), 1)

def hidden(call):
    try:
        call()
    except Exception:
        pass

def test_hidden():
    hidden(lambda: socket.socket().connect(("192.0.2.1", 80)))

def test_connect_ex():
    hidden(lambda: socket.socket().connect_ex(("192.0.2.1", 80)))

def test_lookup():
    hidden(lambda: socket.getaddrinfo("example.invalid", 80))

def test_vllm():
    import vllm

def test_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), 5).close()

@pytest.mark.model
def test_model():
    import vllm
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says about the cases under our conftest, in a process of its own."""
    folder = tmp_path_factory.mktemp("guards")
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    model: weights\n    gpu: device\n")
    (folder / "vllm.py").write_text("")
    (folder / "test_cases.py").write_text(CASES)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rpfE", "--rootdir", str(folder), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=environment)
    return done.stdout


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("test_direct", "the test reached for 192.0.2.1:80"),
        ("test_hidden", "the test reached for 192.0.2.1:80"),
        ("test_connect_ex", "the test reached for 192.0.2.1:80"),
        ("test_lookup", "the test reached for the name example.invalid"),
        ("test_vllm", "the test imported vllm"),
    ],
)
def test_a_test_that_leaves_the_machine_or_imports_vllm_fails_and_says_so(report: str, case: str, reason: str) -> None:
    assert re.search(rf"^ERROR \S+::{case} - .*{reason}", report, re.MULTILINE), report


@pytest.mark.parametrize("case", ["test_loopback", "test_model"])
def test_the_loopback_stays_open_and_a_model_test_is_not_guarded(report: str, case: str) -> None:
    assert re.search(rf"^PASSED \S+::{case}$", report, re.MULTILINE), report
    assert not re.search(rf"^ERROR \S+::{case}", report, re.MULTILINE), report
