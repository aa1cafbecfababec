"""The guards in conftest.py do stop a test that leaves the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


def outcome_of(folder: Path, body: str) -> tuple[int, str]:
    """Exit code and output of pytest on one small test under our conftest."""
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    model: weights\n    gpu: device\n")
    (folder / "test_it.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(folder)}
    )
    return done.returncode, done.stdout


HIDDEN = "import socket\ndef test():\n    try:\n        {}\n    except Exception:\n        pass"


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("192.0.2.1:80", "import socket\ndef test():\n    socket.create_connection(('192.0.2.1', 80), 1)"),
        ("192.0.2.1:80", HIDDEN.format("socket.socket().connect(('192.0.2.1', 80))")),
        ("192.0.2.1:80", HIDDEN.format("socket.socket().connect_ex(('192.0.2.1', 80))")),
        ("the name example.invalid", HIDDEN.format("socket.getaddrinfo('example.invalid', 80)")),
    ],
    ids=["direct", "hidden", "connect_ex", "lookup"],
)
def test_a_test_that_leaves_the_machine_fails_and_says_where_it_went(tmp_path: Path, what: str, body: str) -> None:
    code, output = outcome_of(tmp_path, body)
    assert code == 1
    assert f"the test reached for {what}" in output


def test_a_test_that_imports_vllm_fails(tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("")
    code, output = outcome_of(tmp_path, "def test():\n    import vllm")
    assert code == 1
    assert "imported vllm" in output


def test_the_loopback_stays_open_and_a_model_test_is_not_guarded(tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("")
    body = """
import socket, pytest
def test_here():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), 5).close()
@pytest.mark.model
def test_model():
    import vllm
"""
    code, output = outcome_of(tmp_path, body)
    assert code == 0, output
