"""What the shared code must know of a model: its tokenizer, and how it samples when nobody says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self


class Speaker(Protocol):
    """A tokenizer (transformers' interface), whether it has a chat template, and the ids that end a turn."""

    @property
    def tokenizer(self) -> Any:
        """A transformers tokenizer."""
        ...

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer can render messages."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """All ids that end a turn."""
        ...


@dataclass(frozen=True, slots=True)
class Defaults:
    """Sampling values of requests that set none; the model's authors may recommend some."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, generation: Any) -> Self:
        """Temperature and top-p of a transformers GenerationConfig (or None)."""
        temperature = float(getattr(generation, "temperature", None) or 1.0)
        return cls(temperature, float(getattr(generation, "top_p", None) or 1.0))
