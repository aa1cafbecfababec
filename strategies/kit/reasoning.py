"""Where the reasoning of a text ends and its answer begins."""

from __future__ import annotations

import re

_TAG = re.compile(r"<(?P<close>/?)(?:think|thinking|reasoning|thought)>", re.IGNORECASE)


def answer_part(text: str) -> str:
    """The text outside `<think>` blocks (also thinking, reasoning, thought).

    A block that is still open swallows the rest. A closing tag without an opening one, as with chat templates that
    open the block in the prompt, makes everything before it reasoning.
    """
    kept: list[str] = []
    at, thinking = 0, False
    for tag in _TAG.finditer(text):
        if tag["close"]:
            if not thinking:
                kept.clear()
            at, thinking = tag.end(), False
        elif not thinking:
            kept.append(text[at : tag.start()])
            thinking = True
    return "".join(kept) + ("" if thinking else text[at:])


def is_thinking(text: str) -> bool | None:
    """True inside an open `<think>` block, False after a closed one, None if the text has no such tag."""
    tags = list(_TAG.finditer(text))
    return None if not tags else not tags[-1]["close"]
