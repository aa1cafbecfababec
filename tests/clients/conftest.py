"""A simulated server on the loopback, in a process of its own, for every test of the clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Where the server listens. It is always right, and takes a moment for each answer."""
    flags = ["--engine", "simulated", "--port", "0", "--skill", "1", "--latency", "0.01"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("STROP_")}
    env["STROP_PRICES"] = '{"*": {"input": 1.0, "output": 2.0}}'
    with subprocess.Popen(
        [sys.executable, "-m", "strop.server", "serve", *flags], stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stderr is not None
        ready = next((found for line in process.stderr if (found := re.search(r"ready at (\S+)", line))), None)
        assert ready is not None, "the server did not start"
        yield ready[1]
        process.terminate()
        process.communicate(timeout=15)
    assert process.returncode == 0


@pytest.fixture(autouse=True)
def plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colours, and no server or key from outside."""
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("STROP_URL", "STROP_API_KEY"):
        monkeypatch.delenv(name, raising=False)
