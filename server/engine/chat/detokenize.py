"""Ids to text, one piece per token, and the watch for stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

CONTEXT = 8  # prompt tokens that can influence how the first generated tokens are spelled
UNFINISHED = "\ufffd"
UNFINISHED_TOKENS = 3  # a character has at most four bytes: tokens before the last three cannot be part of one to come


class Detokenizer:
    """Text of each token as it arrives. A token that ends inside a character gives only what comes before that
    character; the token that completes it gives the character.

    The pieces, with `flush` added to the last one, are the text. Special tokens have no text.
    """

    def __init__(self, tokenizer: Any, prompt_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._window = list(prompt_ids[-CONTEXT:])  # settled tokens, as context, then the unsettled ones
        self._known = self._decode().rstrip(UNFINISHED)  # the part of the window's text that was given out
        self.waiting = 0  # how many of the latest tokens are unsettled: text may still be added to the last of them

    def push(self, token: int) -> str:
        """The text this token completes."""
        self._window.append(token)
        self.waiting += 1
        text = self._decode()
        if not text.endswith(UNFINISHED):
            return self._settle(text)
        stable = text.rstrip(UNFINISHED)
        if len(stable) > len(self._known):
            piece, self._known, self.waiting = stable[len(self._known) :], stable, 1
            return piece
        return "" if self.waiting <= UNFINISHED_TOKENS else self._give_up()

    def flush(self) -> str:
        """Text of what is still unfinished at the end."""
        return self._settle(self._decode()) if self.waiting else ""

    def _settle(self, text: str) -> str:
        piece = text[len(self._known) :]
        self._window = self._window[-self.waiting :]
        self._known, self.waiting = self._decode(), 0
        return piece

    def _give_up(self) -> str:
        """The oldest unsettled tokens are no characters and never will be."""
        latest = self._window[-UNFINISHED_TOKENS:]
        self._window = self._window[:-UNFINISHED_TOKENS]
        piece = self._decode()[len(self._known) :]
        self._window, self._known, self.waiting = latest, "", UNFINISHED_TOKENS
        return piece

    def _decode(self) -> str:
        text: str = self._tokenizer.decode(self._window, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class Stopped(NamedTuple):
    """Which stop string was met and where it starts in the text."""

    string: str
    at: int


class StopWatch:
    """Finds stop strings in a growing text, also across pieces."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._longest = max(map(len, strings), default=0)

    def find(self, text: str, grown_by: int) -> Stopped | None:
        """The stop string that starts earliest (then the longest), if only the last `grown_by` characters are new."""
        start = max(0, len(text) - grown_by - self._longest + 1)
        hits = [(text.find(s, start), -len(s), s) for s in self._strings]
        best = min((hit for hit in hits if hit[0] >= 0), default=None)
        return None if best is None else Stopped(best[2], best[0])

    def pending(self, text: str) -> int:
        """Length of the longest tail of `text` that a stop string could still grow from."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            if any(len(s) > size and text.endswith(s[:size]) for s in self._strings):
                return size
        return 0
