"""`strop ask` and `strop compare`."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from strop.clients.board import Board
from strop.clients.chat import Answer, ServerError
from strop.server.cli import app

QUESTION = "What is 17 * 23?"


def strop(*words: str) -> Result:
    return CliRunner().invoke(app, words, prog_name="strop")


def test_ask_prints_the_answer_to_stdout_and_the_bill_to_stderr(url: str) -> None:
    done = strop("ask", QUESTION, "--strategy", "best_of_n", "--knob", "n=3", "--url", url)
    assert done.exit_code == 0
    assert done.stdout.rstrip().endswith("391}.")
    assert done.stderr.startswith("best_of_n: ")
    assert "hidden, " in done.stderr


def test_ask_in_json_is_one_document(url: str) -> None:
    answer = json.loads(strop("ask", QUESTION, "--url", url, "--json", "--max-tokens", "400").stdout)
    assert "391" in answer["text"]
    assert answer["bill"]["strategy"] == "direct"


def test_ask_finds_the_server_in_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_URL", url)
    assert "391" in strop("ask", QUESTION).stdout


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--knob", "n"], 2, "name=value"),
        (["--strategy", "nope"], 1, "no strategy or preset 'nope'"),
        (["--strategy", "best_of_n", "--knob", "m=1"], 1, "has no such knob"),
        (["--model", "gpt-4"], 1, "'gpt-4' does not exist"),
    ],
)
def test_ask_says_what_the_server_refused(url: str, words: list[str], code: int, named: str) -> None:
    done = strop("ask", QUESTION, "--url", url, *words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert named in done.stderr


def test_ask_without_a_server_fails_in_words() -> None:
    done = strop("ask", QUESTION, "--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "no answer from http://127.0.0.1:9" in done.stderr


def test_compare_prints_plain_lines_where_there_is_no_terminal(url: str) -> None:
    done = strop("compare", QUESTION, "--strategy", "direct", "--strategy", "best_of_n:n=2", "--url", url)
    head, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert head == ["strategy", "tokens", "hidden", "calls", "seconds", "cost", "answer"]
    assert [row[0] for row in rows] == ["direct", "best_of_n:n=2"]
    assert all(len(row) == 7 and row[-1].endswith("391}.") for row in rows)
    assert int(rows[1][2]) > int(rows[0][2]) == 0
    assert "\x1b" not in done.stdout


def test_compare_fails_when_one_of_them_does_and_still_shows_the_others(url: str) -> None:
    done = strop("compare", QUESTION, "--strategy", "direct", "--strategy", "nope", "--url", url, "--json")
    assert done.exit_code == 1
    good, bad = json.loads(done.stdout)
    assert "391" in good["text"]
    assert bad["error"]["code"] == "strategy_not_found"


def test_the_table_on_a_terminal_has_a_row_per_strategy_while_they_run_and_after() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    board = Board(["direct", "best_of_n"], screen, live=True)
    with board:
        board.listeners[1].progress("draft 1 of 4\n")
        assert "draft 1 of 4" in drawn(board)
        board.listeners[0].text("The answer")
        assert "The answer" in drawn(board)
        board.finish([Answer("The answer", "m", "stop", None), ServerError("it broke", status=502)])
    assert "it broke" in drawn(board)
    file: Any = screen.file
    assert "The answer" in file.getvalue()


def drawn(board: Board) -> str:
    screen = Console(file=io.StringIO(), width=120)
    screen.print(board.table())
    file: Any = screen.file
    return str(file.getvalue())
