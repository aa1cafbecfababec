"""The command line: `strop serve`, `strop ask` and the rest. Loads neither torch nor an engine until one is needed."""

from __future__ import annotations

import typer

from strop.server.commands import catalogue, config, doctor, key, replay, serve


def build() -> typer.Typer:
    """The program: every command in one place."""
    from strop.clients import commands as client

    program = typer.Typer(
        name="strop",
        help="Inference-time refinement behind the OpenAI API.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    program.command("serve")(serve.serve)
    program.command("ask")(client.ask_command)
    program.command("compare")(client.compare_command)
    program.command("strategies")(catalogue.strategies)
    program.command("replay")(replay.replay)
    program.command("doctor")(doctor.doctor)
    program.command("key")(key.key)
    program.add_typer(config.app, name="config")
    program.command("version")(catalogue.version)
    return program


app = build()


def main() -> None:
    """The console script. Exit codes: 0 success, 1 something failed, 2 a wrong command or setting."""
    app(prog_name="strop")
