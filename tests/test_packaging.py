"""The wheel: everything is in it, its declared dependencies suffice, and what it installs can serve."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS: dict[str, str] = PYPROJECT["tool"]["setuptools"]["package-dir"]
FOR_READERS = ("clients/examples/", "clients/typescript/", "clients/curl/")  # shown in the repository, not installed
START_SECONDS = 30.0


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources so that no old `build/` folder can lend it a file."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = out.glob("strop-*.whl")
    return built


def tracked() -> Iterator[str]:
    """Files of the product as they lie in the repository: what git knows, plus what it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FOLDERS.values()]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    yield from (line for line in listed.stdout.splitlines() if (ROOT / line).exists())


def test_the_wheel_holds_every_file_of_the_product(wheel: Path) -> None:
    places = {folder: name.replace(".", "/") for name, folder in FOLDERS.items()}
    wanted = {
        places[file.partition("/")[0]] + "/" + file.partition("/")[2]
        for file in tracked()
        if not file.startswith(FOR_READERS)
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert wanted - held == set(), "not in the wheel; see package-data and packages in pyproject.toml"
    assert held - wanted == set(), "in the wheel but not in the repository"


def test_the_wheel_carries_types_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [entry_points] = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        assert "strop = strop.server.cli:main" in archive.read(entry_points).decode()
    assert {name for name in names if name.endswith("/py.typed")} == {
        f"{package.replace('.', '/')}/py.typed" for package in FOLDERS
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(tuple(FOLDERS.values())) for name in names), "a folder without the strop prefix"


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a fresh environment that holds the wheel and its declared dependencies, and no extra."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    target = ["--python", str(home / "bin" / "python"), "install", "-qq", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", *target, "--no-compile", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "bin"


@contextmanager
def serving(command: Path, *flags: str) -> Iterator[str]:
    """URL of `strop serve` once it is ready, away from the repository; stopped by SIGTERM at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STROP_", "PYTHON"))}
    process = subprocess.Popen(
        [command, "serve", "--host", "127.0.0.1", "--port", str(port), *flags],
        cwd=command.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _await_ready(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            pytest.fail(f"strop serve did not stop on SIGTERM:\n{output}")


def _await_ready(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"strop serve ended with {process.returncode}:\n{process.communicate()[0]}")
        try:
            ask(url + "/health/ready")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    process.kill()
    pytest.fail(f"strop serve was not ready after {START_SECONDS} s:\n{process.communicate()[0]}")


def ask(url: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """Status and text of one request; an HTTP error raises."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.status, response.read().decode()


def test_the_installed_wheel_serves(installed: Path) -> None:
    with serving(installed / "strop", "--engine", "simulated") as url:
        assert ask(url + "/health/live")[0] == 200
        assert "strop_" in ask(url + "/metrics")[1]
        model = json.loads(ask(url + "/v1/models")[1])["data"][0]["id"]
        question = {"model": model, "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
        for strategy in ("direct", "best_of_n"):  # the second one reads its prompts from the wheel
            answer = json.loads(ask(url + "/v1/chat/completions", question | {"strop": {"strategy": strategy}})[1])
            assert answer["choices"][0]["message"]["content"]
            assert answer["usage"]["completion_tokens"] > 0


def test_the_base_install_brings_no_model_library(installed: Path) -> None:
    code = "import importlib.util as u, sys; print(*(name for name in sys.argv[1:] if u.find_spec(name)))"
    heavy = ["torch", "vllm", "transformers", "triton", "trl", "numpy"]
    command = [installed / "python", "-c", code, *heavy]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == ""
