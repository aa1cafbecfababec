"""`strop serve`: run the server in this process until it is told to stop."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvicorn

from strop.server.commands.configure import configured
from strop.server.commands.flags import settings_flags
from strop.server.commands.names import misnamed
from strop.server.commands.output import USAGE, err, fail
from strop.server.settings import Settings

if TYPE_CHECKING:
    from socket import socket

DRAIN_MARGIN = 5
"""Seconds that a drain may take beyond the longest request."""

VERBOSE = ("debug", "trace")
"""Log levels at which requests are logged and tracebacks are whole."""


@settings_flags
def serve(
    model: Annotated[str | None, typer.Argument(help="HF id, folder or GGUF file; none: the embedded model")] = None,
    passed_on: Annotated[
        list[str] | None, typer.Argument(metavar="[-- FLAGS]", help="flags of vLLM itself, for the vllm engine")
    ] = None,
    *,
    config: Path | None = None,
    given: dict[str, Any],
) -> None:
    """Serve a model behind the OpenAI API, with refinement strategies.

    Flags win over STROP_* environment variables, which win over the YAML file. SIGTERM or Ctrl-C ends the server
    after the running requests are answered; a second one ends it at once.
    """
    if passed_on:
        given = {**given, "vllm_flags": [*given.get("vllm_flags", []), *passed_on]}
    settings = configured(config, given, model)
    if passed_on and settings.engine != "vllm":
        fail(f"only the vllm engine takes further flags: {' '.join(passed_on)}", USAGE)
    app = _build(settings)
    service = app.state.service
    server = Server(_uvicorn(settings, app), lambda port: _announce(settings, service, port))
    try:
        server.run()
    except SystemExit as failed:  # uvicorn's way to say that it cannot listen; it has told why
        raise typer.Exit(1) from failed
    if not server.ready:
        raise typer.Exit(1)


def _build(settings: Settings) -> Any:
    from strop.server.app import build

    try:
        app = build(settings)
    except ImportError as missing:
        fail(f"the engine '{settings.engine}' cannot be loaded: {missing}; try: pip install 'strop[embedded]'")
    except ValueError as wrong:
        fail(str(wrong), USAGE)
    service = app.state.service
    if wrong_names := list(misnamed(settings, service.strategies)):
        fail("\n".join(wrong_names), USAGE)
    return app


def _uvicorn(settings: Settings, app: Any) -> uvicorn.Config:
    level = settings.uvicorn_log_level
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=level,
        log_config=_log_config(level),
        access_log=level in VERBOSE,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
        timeout_graceful_shutdown=int(settings.limits.seconds) + DRAIN_MARGIN,
        server_header=False,
    )


EXPECTED = ("OSError: ", "ValueError: ", "ImportError: ", "ModuleNotFoundError: ", "strop.")
"""How the last line of a traceback begins whose message says all that a user needs."""


class ShortStartup(logging.Filter):
    """Tells in one line why the server cannot start, where uvicorn would print a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten; nothing is left out."""
        text = record.getMessage()
        last = text.rstrip().rpartition("\n")[2]
        if text.startswith("Traceback ") and last.startswith(EXPECTED):
            record.msg, record.args = f"cannot start: {last.partition(': ')[2]}", ()
        return True


def _log_config(level: str) -> dict[str, Any]:
    """uvicorn's own, but all of it on stderr."""
    log_config = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    for handler in log_config["handlers"].values():
        handler["stream"] = "ext://sys.stderr"
    if level not in VERBOSE:
        log_config["filters"] = {"short": {"()": ShortStartup}}
        log_config["handlers"]["default"]["filters"] = ["short"]
    log_config["loggers"]["strop"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return log_config


class Server(uvicorn.Server):
    """uvicorn that says when it is ready, and that ends with code 0 after a drain."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[int], None]) -> None:
        super().__init__(config)
        self.ready = False
        self._announce = announce

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Load the engines, listen, then announce the port."""
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self.ready = True
            self._announce(self.servers[0].sockets[0].getsockname()[1])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, but do not raise them again after the drain: it is a success."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def _announce(settings: Settings, service: Any, port: int) -> None:
    console = err()
    for line in banner(settings, service.model_name, port):
        console.print(line, markup=False)


def banner(settings: Settings, model: str, port: int) -> list[str]:
    """What is served where, and a command that tries it."""
    scheme = "https" if settings.ssl_certfile else "http"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(settings.host, settings.host)
    url = f"{scheme}://{host}:{port}"
    key = ' -H "authorization: Bearer $STROP_API_KEY"' if settings.keys or settings.api_key else ""
    body = f'{{"model":"{model}","messages":[{{"role":"user","content":"What is 17 * 23?"}}]}}'
    return [
        f"strop {version('strop')} is ready at {url}",
        f"  model    {model} (engine {settings.engine}, default strategy {settings.default_strategy})",
        f"  presets  {', '.join(f'{model}:{name}' for name in settings.presets) or 'none'}",
        f"  try      curl -s {url}/v1/chat/completions -H 'content-type: application/json'{key} -d '{body}'",
    ]
