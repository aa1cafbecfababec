"""Load a reward model and read its scores. Blocks: call it from a worker thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from strop.server.scoring.prm.formats import FORMATS, Format, Head, Laid, guess
from strop.strategies.kit.errors import ScorerError
from strop.strategies.kit.types import Chat, Message

PROBE = Chat((Message("user", "How much is 1 + 1?"),)), ("It is 2.\n\n", "So 2.")
"""A question and steps that every format must be able to lay out."""


@dataclass(frozen=True, slots=True)
class Network:
    """A reward model in memory. `context` is the most tokens of a row, `name` what it was asked for by."""

    model: Any
    tokenizer: Any
    format: Format
    name: str
    context: int

    def lay(self, chat: Chat, steps: Sequence[str]) -> tuple[Laid, ...]:
        """Rows for one answer."""
        return self.format.lay(self.tokenizer, chat, steps)

    @torch.inference_mode()
    def read(self, rows: Sequence[Laid]) -> list[list[float]]:
        """Scores at the places of every row, computed together: probabilities in [0, 1], or bare numbers of an
        outcome model with one output. Raises ScorerError when they are not finite."""
        if self.format.head == "sequence" and self.model.config.pad_token_id is None and len(rows) > 1:
            return [scores for row in rows for scores in self.read([row])]
        ids, mask = self._padded(rows)
        scores = self._scores(ids, mask, rows)
        if not bool(scores.isfinite().all()):
            raise ScorerError("the reward model produced numbers that are not finite")
        found = iter(scores.tolist())
        return [[next(found) for _ in row.places] for row in rows]

    def _padded(self, rows: Sequence[Laid]) -> tuple[Tensor, Tensor]:
        """Token ids and mask [rows, longest], padded on the right."""
        pad = self.model.config.pad_token_id or 0
        longest = max(len(row.ids) for row in rows)
        ids = [[*row.ids, *[pad] * (longest - len(row.ids))] for row in rows]
        mask = [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows]
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _scores(self, ids: Tensor, mask: Tensor, rows: Sequence[Laid]) -> Tensor:
        """One score per place of all rows, in order."""
        head = self.format.head
        if head == "sequence":
            whole: Tensor = self.model(input_ids=ids, attention_mask=mask).logits.float()
            return whole[:, 0] if whole.shape[1] == 1 else whole.softmax(1)[:, 1]
        at = torch.tensor([(i, place) for i, row in enumerate(rows) for place in row.places], device=ids.device).T
        if head in ("tokens", "pair"):
            logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits[at[0], at[1]]
            return logits.float().softmax(1)[:, 1]
        hidden: Tensor = self.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[at[0], at[1]]
        if head == "value":
            return torch.sigmoid(self.model.v_head.summary(hidden).float()[:, 0])
        return _label_logits(self.model, hidden, self._labels()).softmax(1)[:, 0]

    def _labels(self) -> tuple[int, int]:
        assert self.format.labels is not None
        return self.format.labels(self.tokenizer)


def load(name: str, kind: str = "auto", dtype: str | None = None, device: str | None = None) -> Network:
    """Load the reward model `name` (hub id or folder) for the format `kind`; "auto" asks its name and config.

    Raises ValueError when the format is unknown or does not fit the model, OSError when there is no such model.
    """
    source = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    config: Any = AutoConfig.from_pretrained(source)
    found = guess(name, config.architectures or []) if kind == "auto" else kind
    if found is None:
        raise ValueError(f"which reward format has {name}? Set reward_format to one of {', '.join(FORMATS)}")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = getattr(torch, dtype or ("float32" if where.type == "cpu" else "bfloat16"))
    model, info = _class(FORMATS[found].head, config).from_pretrained(
        source, config=config, dtype=precision, output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{name} lacks weights that the format {found} needs: {', '.join(missing)}")
    model.config.use_cache = False
    return fitted(model.to(where).eval(), AutoTokenizer.from_pretrained(source), found, name)


def fitted(model: Any, tokenizer: Any, kind: str, name: str) -> Network:
    """A network around what is in memory already, after checking that model, tokenizer and format go together."""
    config = model.config.get_text_config()
    network = Network(model, tokenizer, FORMATS[kind], name, int(config.max_position_embeddings))
    try:
        rows = network.lay(*PROBE)
    except (ScorerError, ValueError) as wrong:
        raise ValueError(f"{name} does not fit the reward format {kind}: {wrong}") from wrong
    head = network.format.head
    if head == "tokens" and model.config.num_labels != 2:
        raise ValueError(f"{name} has {model.config.num_labels} labels for a token; the format {kind} needs 2")
    if head == "sequence" and model.config.num_labels > 2:
        raise ValueError(f"{name} has {model.config.num_labels} labels; an outcome reward model has 1 or 2")
    if head == "labels" and not _plain_head(model, network._labels(), rows[0].ids[: network.context]):
        raise ValueError(f"{name} changes its logits after the output layer; label scores would differ from its own")
    return network


def groups(rows: Sequence[Laid], most_tokens: int) -> Iterator[list[int]]:
    """Indices of rows to run together: similar lengths, at most `most_tokens` with padding unless one has more."""
    group: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i].ids)):
        if group and (len(group) + 1) * len(rows[i].ids) > most_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _label_logits(model: Any, hidden: Tensor, labels: tuple[int, int]) -> Tensor:
    """Logits [places, 2] of two tokens, without computing those of the whole vocabulary."""
    out = model.get_output_embeddings()
    chosen = list(labels)
    logits = nn.functional.linear(hidden, out.weight[chosen], None if out.bias is None else out.bias[chosen])
    return logits.float()


@torch.inference_mode()
def _plain_head(model: Any, labels: tuple[int, int], ids: Sequence[int]) -> bool:
    """Whether the model's logits are its output layer's, neither scaled nor capped."""
    row = torch.tensor([list(ids)], device=model.device)
    own = model(input_ids=row).logits[0][:, list(labels)].float()
    ours = _label_logits(model, model.base_model(input_ids=row).last_hidden_state[0], labels)
    return bool(torch.allclose(own, ours, rtol=0.05, atol=0.05))


def _class(head: Head, config: Any) -> Any:
    """The class whose `from_pretrained` reads the checkpoint, head included."""
    match head:
        case "labels":
            return AutoModelForCausalLM
        case "sequence":
            return AutoModelForSequenceClassification
        case "tokens":
            return AutoModelForTokenClassification
        case "pair" | "value":
            if type(config) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
                raise ValueError(f"there is no reward head for models of type {config.model_type}")
            return headed(MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING[type(config)], head)


def headed(base: Any, head: Head) -> Any:
    """A token classifier whose head has the names and shapes of the published checkpoints."""

    class Headed(base):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            width = config.hidden_size
            self.score: nn.Module
            if head == "pair":
                self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
            else:
                self.score = nn.Identity()
                self.v_head = nn.Module()
                self.v_head.summary = nn.Linear(width, 1)
            self.post_init()

    return Headed
