"""The command line in this process, and a server in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from strop.server.cli import app

Strop = Callable[..., Result]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from outside, and files written by accident land in a temporary folder."""
    for name in [name for name in os.environ if name.startswith("STROP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def strop() -> Strop:
    """`strop("key", "--json")` runs the command in this process."""

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, words, prog_name="strop")

    return run


class Server:
    """`strop serve` on a free port; `banner` is what it printed until it was ready."""

    def __init__(self, *flags: str, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "strop.server", "serve", "--engine", "simulated", "--port", "0", *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        self.banner = self._until_ready()
        self.url = re.search(r"ready at (\S+)", self.banner)[1]  # type: ignore[index]
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=20)

    def _until_ready(self) -> str:
        assert self.process.stderr is not None
        lines: list[str] = []
        for line in self.process.stderr:
            lines.append(line)
            if line.startswith("  try"):
                return "".join(lines)
        self.process.communicate(timeout=15)
        raise AssertionError(f"the server ended with code {self.process.returncode}: " + "".join(lines))

    def chat(self, **body: Any) -> dict[str, Any]:
        message = {"role": "user", "content": "What is 17 * 23?"}
        response = self.http.post("/v1/chat/completions", json={"model": "simulated", "messages": [message], **body})
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        self.output, self.errors = self.process.communicate(timeout=15)
        return self.process.returncode

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def started() -> Iterator[Callable[..., Server]]:
    """`started("--latency", "0.1")`: a running server, stopped after the test."""
    servers: list[Server] = []

    def start(*flags: str, **options: Any) -> Server:
        servers.append(Server(*flags, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests of a file that do not change it."""
    running = Server("--skill", "1")
    yield running
    running.close()
