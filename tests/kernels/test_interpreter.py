"""The Triton path passes the same tests as the torch path, in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHILD = {"STROP_KERNELS": "interpret", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(os.environ.get("STROP_KERNELS") == "interpret", reason="this is the child process")
def test_the_kernel_tests_pass_on_the_triton_path_in_the_interpreter() -> None:
    options = [
        "-x",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "-m",
        "not model and not gpu",
    ]
    command = [sys.executable, "-m", "pytest", *options, str(HERE)]
    done = subprocess.run(
        command, cwd=HERE.parents[1], env={**os.environ, **CHILD}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
