"""Guards around every test: no network beyond this machine, no vLLM, no model hub.

A test marked `model` or `gpu` may do all of that.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class NetworkForbidden(RuntimeError):
    """A test without the mark `model` tried to leave this machine."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio only: the server does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that opens a connection beyond the loopback or imports vLLM, even if the code hides the error."""
    if any(request.node.get_closest_marker(mark) for mark in ("model", "gpu")):
        yield
        return
    attempts: list[str] = []
    had_vllm = "vllm" in sys.modules
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _guarded_connect(getattr(socket.socket, name), attempts))
    monkeypatch.setattr(socket, "getaddrinfo", _guarded_lookup(socket.getaddrinfo, attempts))
    yield
    monkeypatch.undo()
    if attempts:
        pytest.fail(f"the test reached for {', '.join(attempts)}; mark it 'model' or keep it on this machine")
    if not had_vllm and sys.modules.pop("vllm", None):
        pytest.fail("the test imported vllm; mark it 'model' or 'gpu'")


def _guarded_connect(real: Callable[..., Any], attempts: list[str]) -> Callable[..., Any]:
    def connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            attempts.append(f"{address[0]}:{address[1]}")
            raise NetworkForbidden(attempts[-1])
        return real(self, address)

    return connect


def _guarded_lookup(real: Callable[..., Any], attempts: list[str]) -> Callable[..., Any]:
    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_here(host) and not _is_numeric(host):
            attempts.append(f"the name {host}")
            raise NetworkForbidden(attempts[-1])
        return real(host, *args, **kwargs)

    return getaddrinfo


def _is_here(host: str | bytes | None) -> bool:
    name = _text(host)
    return name in ("", "localhost") or (_is_numeric(name) and ipaddress.ip_address(name.partition("%")[0]).is_loopback)


def _is_numeric(host: str | bytes | None) -> bool:
    try:
        ipaddress.ip_address(_text(host).partition("%")[0])
    except ValueError:
        return False
    return True


def _text(host: str | bytes | None) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes) else host or ""
