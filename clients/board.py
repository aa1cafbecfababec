"""The table of `strop compare`: one row per strategy, alive on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from strop.clients.chat import Answer, Listener, ServerError

COLUMNS = ("tokens", "hidden", "calls", "seconds", "cost")
SHOWN = 400


@dataclass(slots=True)
class _Row:
    label: str
    text: str = ""
    progress: str = "waiting"
    result: Answer | ServerError | None = None

    def numbers(self) -> tuple[str, ...]:
        if isinstance(self.result, ServerError):
            return ("error",) + ("",) * (len(COLUMNS) - 1)
        if self.result is None or self.result.bill is None:
            return ("",) * len(COLUMNS)
        paid = self.result.bill
        cost = "no price" if paid.cost_usd is None else f"${paid.cost_usd:.6f}"
        counts = (paid.completion_tokens, paid.hidden_tokens, paid.calls)
        return (*map(str, counts), f"{paid.seconds:.2f}", cost)

    def words(self) -> str:
        if isinstance(self.result, ServerError):
            return str(self.result)
        text = self.text or (self.progress if self.result is None else "")
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class Board:
    """Rows that fill up as answers come in. With `live`, drawn on `console` while entered."""

    def __init__(self, labels: Sequence[str], console: Console, *, live: bool) -> None:
        self.live = live
        self._rows = [_Row(label) for label in labels]
        self._drawing = Live(self.table(), console=console, refresh_per_second=8) if live else None

    @property
    def listeners(self) -> list[Listener]:
        """One listener per row."""
        return [self._listener(row) for row in self._rows]

    def finish(self, results: Sequence[Answer | ServerError]) -> None:
        """Fill in the bills."""
        for row, result in zip(self._rows, results, strict=True):
            row.result = result
        self._draw()

    def table(self) -> Table:
        """The rows as they are now."""
        table = Table("strategy", "answer", *COLUMNS, show_lines=True)
        for row in self._rows:
            table.add_row(Text(row.label), Text(row.words()), *row.numbers())
        return table

    def lines(self) -> list[str]:
        """One line per strategy: label, numbers and answer, separated by tabs."""
        rows = [(row.label, *row.numbers(), " ".join(row.words().split())) for row in self._rows]
        return ["\t".join(row) for row in [("strategy", *COLUMNS, "answer"), *rows]]

    def __enter__(self) -> Board:
        if self._drawing:
            self._drawing.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawing:
            self._drawing.__exit__(kind, error, trace)

    def _listener(self, row: _Row) -> Listener:
        def text(words: str) -> None:
            row.text += words
            self._draw()

        def progress(words: str) -> None:
            row.progress = words.strip() or row.progress
            self._draw()

        return Listener(text, progress)

    def _draw(self) -> None:
        if self._drawing:
            self._drawing.update(self.table())
