"""Drafts while they stream in: chunks of chat completions or of plain completions become text, calls and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from strop.strategies.kit.span import Delta
from strop.strategies.kit.types import Draft, Finish, Tokens, ToolCall

Top = tuple[tuple[int, str, float], ...]

_FINISH: Mapping[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "abort": "abort",
}


@dataclass(frozen=True, slots=True)
class Start:
    """What a draft begins with: nothing, or the turn it continues; `inserted` tokens are already part of it."""

    draft: Draft = Draft("")
    reports_tokens: bool = True
    inserted: int = 0


class Growing:
    """One draft. The texts of its tokens, joined, are exactly its text.

    A token that adds nothing to the text (end of turn, reasoning, tool syntax) has the text "". When the upstream
    sends several tokens at once without their texts, the last one carries them.
    """

    def __init__(self, start: Start, index: int = 0) -> None:
        self.index = index
        self.seen = False
        self.finish: Finish | None = None
        self._start = start
        self._text: list[str] = [start.draft.text]
        self._reasoning: list[str] = [start.draft.reasoning]
        self._stop_reason: str | int | None = None
        self._calls: dict[int, list[str]] = {}
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._logprobs: list[float] = []
        self._top: list[Top] = []

    def add(self, choice: Mapping[str, Any]) -> tuple[Delta, int]:
        """Take in one choice of a chunk; gives its new words and how many tokens it is believed to hold."""
        delta = choice.get("delta") or choice.get("message") or {}
        text = (delta.get("content") if "text" not in choice else choice["text"]) or ""
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        calls = delta.get("tool_calls") or ()
        for call in calls:
            self._call(call)
        tokens, named = self._tokens(choice, text)
        self.seen = True
        self._text.append(text)
        self._reasoning.append(reasoning)
        if choice.get("finish_reason"):
            self.finish = _FINISH.get(choice["finish_reason"], "stop")
            self._stop_reason = choice.get("stop_reason")
        count = named or int(bool(text or reasoning or calls))
        return Delta(text, self.index, reasoning, tokens), count

    def draft(self, n_tokens: int) -> Draft:
        """The draft as it stands; `n_tokens` counts what was generated. Unfinished ones end by length."""
        start = self._start.draft
        done = self.finish is not None
        return Draft(
            "".join(self._text),
            self.finish or "length",
            tuple(ToolCall(id_, name, arguments) for id_, name, arguments in self._calls.values()) if done else (),
            self._columns(),
            start.n_tokens + (len(self._ids) or n_tokens),
            start.injected,
            self._stop_reason,
            "".join(self._reasoning),
        )

    def _columns(self) -> Tokens:
        """Columns of the whole turn; a column that is not known for all of it is left out."""
        before, now = self._start.draft.tokens, len(self._ids) or len(self._texts)
        if not self._start.reports_tokens or now == 0:
            return Tokens()
        ids, logprobs, top = tuple(self._ids), tuple(self._logprobs), tuple(self._top)
        return Tokens(
            before.ids + ids if len(ids) == now and len(before.ids) == len(before) else (),
            before.texts + tuple(self._texts) if len(before.texts) == len(before) else (),
            before.logprobs + logprobs if len(logprobs) == now and len(before.logprobs) == len(before) else (),
            top=before.top + top if len(top) == now and any(top) and len(before.top) == len(before) else (),
        )

    def _call(self, call: Mapping[str, Any]) -> None:
        index = call.get("index")
        slot = self._calls.setdefault(len(self._calls) if index is None else int(index), ["", "", ""])
        function = call.get("function") or {}
        slot[0] = slot[0] or call.get("id") or ""
        slot[1] += function.get("name") or ""
        slot[2] += function.get("arguments") or ""

    def _tokens(self, choice: Mapping[str, Any], text: str) -> tuple[Tokens, int]:
        """Columns of one chunk, appended to the draft's; and how many tokens the chunk names."""
        ids = tuple(choice.get("token_ids") or ())
        said, logprobs, top = _logprobs(choice.get("logprobs"), ids)
        count = len(ids) or len(said)
        if count == 0:
            if text and self._texts:
                self._texts[-1] += text
            return Tokens(), 0
        texts = said if len(said) == count and "".join(said) == text else ("",) * (count - 1) + (text,)
        self._ids += ids
        self._texts += texts
        self._logprobs += logprobs
        self._top += top
        return Tokens(ids, texts, logprobs, top=top), count


def _logprobs(given: Any, ids: tuple[int, ...]) -> tuple[tuple[str, ...], tuple[float, ...], tuple[Top, ...]]:
    """Texts, logprobs and alternatives of a chunk, in either of OpenAI's two forms."""
    if not isinstance(given, dict):
        return (), (), ()
    content = given.get("content")
    if isinstance(content, list):
        texts = tuple(str(entry.get("token", "")) for entry in content)
        values = tuple(float(entry["logprob"]) for entry in content)
        listed = [[(str(t["token"]), float(t["logprob"])) for t in e.get("top_logprobs") or ()] for e in content]
    elif isinstance(given.get("tokens"), list):
        texts = tuple(map(str, given["tokens"]))
        values = tuple(0.0 if value is None else float(value) for value in given.get("token_logprobs") or ())
        listed = [list((entry or {}).items()) for entry in given.get("top_logprobs") or [None] * len(texts)]
    else:
        return (), (), ()
    known = ids if len(ids) == len(texts) else (-1,) * len(texts)
    return texts, values, tuple(_ranked(*row) for row in zip(known, texts, values, listed, strict=True))


def _ranked(id_: int, token: str, logprob: float, listed: list[tuple[str, float]]) -> Top:
    """Alternatives, best first. Their ids are unknown (-1), except that of the sampled token."""
    best = sorted(listed, key=lambda entry: -entry[1])
    return tuple((id_ if (t, p) == (token, logprob) else -1, t, float(p)) for t, p in best)
