"""Clerk: a simulated model that also fills in forms, such as checklists, which the plain one answers in prose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from strop.strategies.kit.ops import Generate
from strop.strategies.kit.types import Chat, Draft
from strop.strategies.testing.brain import Brain
from strop.strategies.testing.columns import columns
from strop.strategies.testing.simulated import Simulated, limited

Form = Callable[[Brain, Chat, str], str]
"""What the model says to a chat; the key makes two draws independent."""


class Clerk(Simulated):
    """A `Simulated` that answers every generation whose tag is in `forms` as the form says, and all others as usual."""

    def __init__(self, *numbers: float, forms: Mapping[str, Form], **more: Any) -> None:
        super().__init__(*numbers, **more)
        self.forms = forms

    def draft(self, op: Generate, key: str, index: int = 0) -> Draft:
        """One draft, complete, as `key` decides it."""
        form = self.forms.get(op.tag)
        if form is None:
            return super().draft(op, key, index)
        sampling = op.chat.sampling
        written = limited(form(self.brain, op.chat, key), sampling.max_tokens, sampling.stop)
        return columns(written, op, False, self.brain, f"{key}:{index}")
