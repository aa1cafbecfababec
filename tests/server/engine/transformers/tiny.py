"""A tiny random Llama and a byte-level tokenizer, built in the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

torch = pytest.importorskip("torch", reason="the embedded engine needs torch")
pytest.importorskip("transformers", reason="the embedded engine needs transformers")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

VOCAB = 320  # more than the tokenizer knows, as in real models
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("S", "T"), ("O", "P")]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer() -> Any:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = letters + [a + b for a, b in MERGES]
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, MERGES))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<eos>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", chat_template=TEMPLATE)


def make_model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=96,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.25,
        tie_word_embeddings=False,
        eos_token_id=261,
        bos_token_id=None,
        pad_token_id=261,
    )
    return LlamaForCausalLM(config).eval()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; it has no event to wait for."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)
