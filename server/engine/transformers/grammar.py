"""Constrained decoding through llguidance: which tokens may come next so that the text matches a grammar."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any, assert_never

import torch
from torch import Tensor

from strop.server.engine.chat.types import Grammar, RequestFailed

# Bounded, because a small model left free to write whitespace between JSON tokens may never stop.
JSON_WHITESPACE = r"[ \n\t]{1,16}"
BITS = torch.tensor([[byte >> bit & 1 for bit in range(8)] for byte in range(256)], dtype=torch.bool)


class Matcher:
    """The state of one draft in its grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def fork(self) -> Matcher:
        """An independent copy in the same state."""
        return Matcher(self._matcher.deep_copy(), self._vocab_size)

    def allowed(self) -> Tensor:
        """bool [V]: the tokens that may come next. End-of-text is among them where the text may end."""
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        self._check()
        mask = torch.zeros(self._vocab_size, dtype=torch.bool)
        bits = BITS[packed.long()].flatten()[: self._vocab_size]
        mask[: len(bits)] = bits
        return mask

    def accept(self, token: int) -> None:
        """Advance by one token. RequestFailed if the grammar does not allow it."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def finished(self) -> bool:
        """Nothing may follow but end-of-text."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestFailed(f"grammar: {self._matcher.get_error()}")


class Grammars:
    """Compiles grammars for one tokenizer. Thread-safe; the first call prepares the vocabulary (about a second)."""

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._tokenizer, self._vocab_size, self._eos_ids = tokenizer, vocab_size, list(eos_ids)
        self._lock = threading.Lock()
        self._prepared: Any = None

    def compile(self, grammar: Grammar) -> Matcher:
        """ValueError with the reason if the grammar is not valid or not supported."""
        import llguidance

        vocabulary = self._vocabulary()
        source = _source(grammar)
        problem = llguidance.LLMatcher.validate_grammar(source, vocabulary)
        if problem and not problem.startswith("WARNING"):
            raise ValueError(f"{grammar.kind} grammar: {problem}")
        matcher = llguidance.LLMatcher(vocabulary, source, log_level=0)
        if matcher.is_error():
            raise ValueError(f"{grammar.kind} grammar: {matcher.get_error()}")
        return Matcher(matcher, self._vocab_size)

    def _vocabulary(self) -> Any:
        import llguidance.hf

        with self._lock:
            if self._prepared is None:
                self._prepared = llguidance.hf.from_tokenizer(
                    self._tokenizer, n_vocab=self._vocab_size, eos_token=self._eos_ids
                )
            return self._prepared


def _source(grammar: Grammar) -> str:
    from llguidance import LLMatcher

    match grammar.kind:
        case "json_schema" | "json_object":
            schema = {"type": "object"} if grammar.kind == "json_object" else grammar.schema
            if not isinstance(schema, dict):
                raise ValueError("json_schema grammar: the schema is missing")
            return LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_pattern": JSON_WHITESPACE})
        case "regex":
            if not grammar.pattern:
                raise ValueError("regex grammar: the pattern is missing")
            return LLMatcher.grammar_from_regex(grammar.pattern)
        case "choice":
            if not grammar.choices or not all(grammar.choices):
                raise ValueError("choice grammar: needs at least one choice, none of them empty")
            options = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in grammar.choices)
            return LLMatcher.grammar_from_lark(f"start: {options}")
        case _:
            assert_never(grammar.kind)
