"""The examples run as they stand, against a server on the loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"
NEEDS = {
    "openai_python.py": "openai",
    "compare_strategies.py": "httpx",
    "langchain_chat.py": "langchain_openai",
    "litellm_chat.py": "litellm",
    "instructor_object.py": "instructor",
}
"""Example to the library it shows."""


def run(command: list[str], url: str) -> str:
    env = {**os.environ, "STROP_URL": url, "STROP_MODEL": "simulated", "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_readme_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text()
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert {name for name in files if f"[{name}]({name})" not in text} == set()
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_a_python_example_prints_the_answer_and_the_bill(url: str, name: str) -> None:
    if find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    output = run([sys.executable, str(EXAMPLES / name)], url)
    assert "391" in output
    assert "hidden" in output or "usage" in output


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_example_shows_every_way_to_choose(url: str) -> None:
    output = run(["bash", str(EXAMPLES / "curl.sh")], url)
    assert [source for source in ("body", "model", "path", "header") if f'"selected_by":"{source}"' not in output] == []
    assert '"reasoning_content"' in output
    assert output.rstrip().endswith("data: [DONE]")


def test_the_typescript_example_runs(url: str, tmp_path: Path) -> None:
    modules = Path(os.environ.get("NODE_PATH", EXAMPLES / "node_modules"))
    tsx = modules / ".bin" / "tsx"
    if not (tsx.exists() and (modules / "openai").exists()):
        pytest.skip("the npm packages openai and tsx are not installed (NODE_PATH names their folder)")
    (tmp_path / "node_modules").symlink_to(modules, target_is_directory=True)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(EXAMPLES / "openai_node.ts", tmp_path)
    output = run([str(tsx), str(tmp_path / "openai_node.ts")], url)
    assert "391" in output
    assert "strategy: self_consistency" in output
