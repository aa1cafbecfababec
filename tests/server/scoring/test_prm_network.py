"""Scores of tiny random reward models against a plain forward pass of transformers."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch", reason="reward models need torch")
pytest.importorskip("transformers", reason="reward models need transformers")

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    Qwen2Config,
    Qwen2ForTokenClassification,
)

from strop.server.scoring.prm import network
from strop.server.scoring.prm.formats import FORMATS, Laid
from strop.strategies.kit.errors import ScorerError
from tests.server.scoring.rewards import QUESTION, STEPS, byte_level, sentence_piece

SHORT = ["Two.\n\n", "3"]


def config(kind: Any = LlamaConfig, **more: Any) -> Any:
    return kind(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=260,
        **more,
    )


def plain_labels(model, row, labels):
    logits = model(torch.tensor([row.ids])).logits[0][:, list(labels)]
    return logits.softmax(-1)[list(row.places), 0]


def both(net):
    """Scores of two answers computed together, and their rows."""
    rows = [*net.lay(QUESTION, STEPS), *net.lay(QUESTION, SHORT)]
    return rows, net.read(rows)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", ["math_shepherd", "rlhflow", "yes_no"])
def test_label_scores_equal_a_plain_forward_pass(kind):
    tokenizer = sentence_piece() if kind == "math_shepherd" else byte_level()
    model = LlamaForCausalLM(config()).eval()
    net = network.fitted(model, tokenizer, kind, "tiny")
    rows, scores = both(net)
    with torch.no_grad():
        expected = [plain_labels(model, row, FORMATS[kind].labels(tokenizer)) for row in rows]
    for found, wanted in zip(scores, expected, strict=True):
        assert found == pytest.approx(wanted.tolist(), abs=1e-5)
    assert sum(map(len, scores)) == len(STEPS) + len(SHORT)
    assert max(map(max, scores)) - min(map(min, scores)) > 0.01


def test_value_head_scores_equal_a_plain_forward_pass_and_load_from_the_published_names(tmp_path):
    model = LlamaForCausalLM(config()).eval()
    head = torch.nn.Linear(32, 1)
    folder = tmp_path / "Skywork-PRM-tiny"
    model.save_pretrained(folder)
    byte_level(bos="<|end|>").save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights |= {
        "v_head.summary.weight": head.weight.detach().clone(),
        "v_head.summary.bias": head.bias.detach().clone(),
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    net = network.load(str(folder), device="cpu")
    rows, scores = both(net)
    assert net.format is FORMATS["skywork"]
    with torch.no_grad():
        for row, found in zip(rows, scores, strict=True):
            hidden = model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states[-1][0]
            assert found == pytest.approx(torch.sigmoid(head(hidden))[list(row.places), 0].tolist(), abs=1e-5)


def test_qwens_two_layer_head_loads_from_the_published_names_and_equals_a_plain_forward_pass(tmp_path):
    model = Qwen2ForTokenClassification(config(Qwen2Config, num_labels=2))
    model.score = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    model.eval().save_pretrained(tmp_path)
    byte_level().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written["architectures"] = ["Qwen2ForProcessRewardModel"]
    written["auto_map"] = {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"}
    (tmp_path / "config.json").write_text(json.dumps(written))

    net = network.load(str(tmp_path), device="cpu")
    rows, scores = both(net)
    assert net.format is FORMATS["qwen"]
    with torch.no_grad():
        for row, found in zip(rows, scores, strict=True):
            probabilities = model(torch.tensor([row.ids])).logits[0].softmax(-1)
            assert found == pytest.approx(probabilities[list(row.places), 1].tolist(), abs=1e-5)


def test_trl_scores_equal_a_plain_forward_pass():
    model = LlamaForTokenClassification(config(num_labels=2)).eval()
    rows, scores = both(network.fitted(model, byte_level(), "trl", "tiny"))
    with torch.no_grad():
        for row, found in zip(rows, scores, strict=True):
            probabilities = model(torch.tensor([row.ids])).logits[0].softmax(-1)
            assert found == pytest.approx(probabilities[list(row.places), 1].tolist(), abs=1e-5)


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("pad", [260, None])
def test_outcome_scores_equal_a_plain_forward_pass_also_without_a_padding_token(labels, pad):
    model = LlamaForSequenceClassification(config(num_labels=labels)).eval()
    model.config.pad_token_id = pad
    rows, scores = both(network.fitted(model, byte_level(), "orm", "tiny"))
    with torch.no_grad():
        for row, [found] in zip(rows, scores, strict=True):
            logits = model(torch.tensor([row.ids])).logits[0]
            expected = logits[0] if labels == 1 else logits.softmax(-1)[1]
            assert found == pytest.approx(expected.item(), abs=1e-5)


def test_a_checkpoint_without_the_head_is_refused(tmp_path):
    LlamaForCausalLM(config()).save_pretrained(tmp_path)
    byte_level().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks weights.*v_head.summary.weight"):
        network.load(str(tmp_path), "skywork", device="cpu")


def test_a_model_whose_format_nothing_tells_asks_for_the_setting(tmp_path):
    LlamaForCausalLM(config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Set reward_format to one of math_shepherd, rlhflow"):
        network.load(str(tmp_path))


def test_a_tokenizer_that_does_not_fit_the_format_is_refused_when_loading():
    with pytest.raises(ValueError, match="does not fit the reward format yes_no"):
        network.fitted(LlamaForCausalLM(config()).eval(), sentence_piece(), "yes_no", "tiny")


def test_a_model_that_rescales_its_logits_is_refused_for_label_formats():
    class Capped(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits / 4
            return out

    with pytest.raises(ValueError, match="changes its logits"):
        network.fitted(Capped(config()).eval(), byte_level(), "rlhflow", "tiny")


def test_numbers_that_are_not_finite_are_an_error_not_a_score():
    model = LlamaForTokenClassification(config(num_labels=2)).eval()
    model.score.weight.data.fill_(float("nan"))
    net = network.fitted(model, byte_level(), "trl", "tiny")
    with pytest.raises(ScorerError, match="not finite"):
        net.read(net.lay(QUESTION, STEPS))


def test_rows_run_together_are_alike_in_length_and_bounded():
    rows = [Laid(tuple(range(n)), (0,)) for n in (9, 2, 30, 3, 8)]
    assert list(network.groups(rows, 18)) == [[1, 3], [4, 0], [2]]
