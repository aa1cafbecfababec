"""Small tokenizers and models for the tests of reward models, built in the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("transformers", reason="reward models need transformers")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from strop.strategies.kit.types import Chat, Message

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = Chat((Message("system", "Be terse."), Message("user", "1+1+1?")))
STEPS = ["1+1 = 2\n\n", "2+1 = 3\nso 3\n\n", "It is 3."]


def byte_level(bos: str | None = None) -> Any:
    """Bytes, a token "\\n\\n" that merges two newlines, and the special tokens of ChatML and of Qwen's PRM."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, "ĊĊ", "Ye", "Yes", "No"]
    merges = [("Ċ", "Ċ"), ("Y", "e"), ("Ye", "s"), ("N", "o")]
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    names = ["<|end|>", "<|im_start|>", "<|im_end|>", "<extra_0>"]
    core.add_special_tokens([AddedToken(name, special=True) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>", bos_token=bos, chat_template=CHATML
    )


def sentence_piece() -> Any:
    """Letters and the word "ки", with Llama's and Mistral's way of writing spaces."""
    letters = sorted({*"0123456789+-=?.,Itsoanwer", "▁", "\n", *"руки"})
    pieces = [("<unk>", 0.0), *((letter, -5.0) for letter in letters), ("▁ки", -1.0), ("▁+", -1.0), ("▁-", -1.0)]
    core = Tokenizer(models.Unigram(pieces, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.add_special_tokens([AddedToken("<s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>")


def shown(tokenizer: Any, ids: Sequence[int]) -> str:
    """Tokens, divided by bars."""
    return "|".join(tokenizer.convert_ids_to_tokens(list(ids)))
