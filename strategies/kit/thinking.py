"""What budget forcing shares: where thinking ended, and how much room is left after words that strop inserts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from strop.strategies.kit.types import Chat, Draft, Prefix, Tokens


def single_turn(question: Chat) -> bool:
    """Whether the answer is a tool call or JSON, in which nothing can be inserted."""
    return question.format.kind != "text" or bool(question.tools and question.tool_choice.mode != "none")


def ended_at(draft: Draft, end: str, question: Chat) -> bool:
    """Whether the model ended its thinking, rather than the turn."""
    return draft.finish == "stop" and draft.stop_reason == end and end not in question.sampling.stop


def gap(draft: Draft) -> str:
    """What separates inserted words from the draft."""
    return "" if not draft.text or draft.text.endswith("\n") else "\n"


def room_after(question: Chat, prefix: Prefix | None) -> dict[str, Any] | None:
    """`max_tokens` and `min_tokens` for what follows the prefix, so that the whole turn keeps the client's limits.

    None if there is no room. Inserted words count as a token per byte, which no tokenizer exceeds.
    """
    limit, least = question.sampling.max_tokens, question.sampling.min_tokens
    used = 0 if prefix is None else prefix.draft.n_tokens + len(prefix.inject.encode())
    if limit is not None and used >= limit:
        return None
    room = None if limit is None else limit - used
    left = max(0, least - used)
    return {"max_tokens": room, "min_tokens": left if room is None else min(left, room)}


def unfinished(draft: Draft) -> Draft:
    """A draft whose thinking ended but whose answer has not been written."""
    return replace(draft, finish="length")


def stuck(prefix: Prefix) -> Draft:
    """What there is when nothing can follow: the inserted words stay, since they may have been streamed."""
    text = prefix.draft.text + prefix.inject
    return replace(prefix.draft, text=text, tokens=Tokens(), finish="length", stop_reason=None)
