r"""Formats of reward models, exactly as published: (tokenizer, question, steps) to token ids and the places to read.

| format | layout | read |
|---|---|---|
| math_shepherd | `{question} {step 1} ки\n{step 2} ки` | at every `ки`: softmax of the logits of "+" and "-" |
| rlhflow | chat: user `{question} {step 1}`, assistant `+`, user `{step 2}`, assistant `+` | where "+" is predicted |
| skywork | `{bos}{question}\n`, then every line and "\n", each encoded alone | value head at a step's last "\n" |
| qwen | chat with Qwen's system prompt; `<extra_0>` after every step | head of 2 labels at every `<extra_0>` |
| trl, trl_paragraphs | question, then steps and separators ("\n", "\n\n"), each encoded alone | end of a separator |
| yes_no | chat that asks after each step whether all is correct so far | "Yes" against "No" as the next token |
| orm | the conversation with the answer as its last turn | the sequence head |

Sources: model cards of peiyi9979/math-shepherd-mistral-7b-prm and Qwen/Qwen2.5-Math-PRM-7B; `prm_evaluate.py` of
RLHFlow/RLHF-Reward-Modeling; `io_utils.py` of SkyworkAI/skywork-o1-prm-inference; `PRMTrainer.tokenize_row` of TRL;
GenRM (arXiv 2408.15240).

Steps are cut in text, and each place is known from the layout, never searched for in what others wrote: words that
spell a special token or a tag of the format are taken out of the question and the steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal

from strop.strategies.kit.errors import ScorerError
from strop.strategies.kit.prompts import prompt
from strop.strategies.kit.types import Chat

Head = Literal["labels", "value", "pair", "tokens", "sequence"]
"""How scores are read: two labels of a language model, a value head, a two-layer head of 2 labels, a linear head of 2
labels, or a head over the whole sequence."""

Tokenizer = Any
Steps = Sequence[str]

TAG = "ки"
EXTRA = "<extra_0>"
QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, slots=True)
class Laid:
    """One row for the model: token ids, and the places (indices into them) whose scores are the rewards, in order."""

    ids: tuple[int, ...]
    places: tuple[int, ...]


Layout = Callable[[Tokenizer, Chat, Steps], tuple[Laid, ...]]


@dataclass(frozen=True, slots=True)
class Format:
    """A layout, the head that reads it, and the (good, bad) label ids where the head is a language model's own."""

    lay: Layout
    head: Head
    labels: Callable[[Tokenizer], tuple[int, int]] | None = None

    @property
    def process(self) -> bool:
        """Whether it scores steps rather than whole answers."""
        return self.head != "sequence"


def math_shepherd(tokenizer: Tokenizer, chat: Chat, steps: Steps) -> tuple[Laid, ...]:
    """Math-Shepherd: one text with a tag after every step, encoded whole, as the model card does."""
    tag = tokenizer.encode(TAG, add_special_tokens=False)[-1]
    clean = partial(_clean, tokenizer, (rf"\b{TAG}\b",))
    text = f"{clean(problem(chat))} "
    ends: list[int] = []
    for step in steps:
        text += ("\n" if ends else "") + f"{clean(step)} {TAG}"
        ends.append(len(text))
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids = tuple(encoded["input_ids"])
    at = {end: i for i, (start, end) in enumerate(encoded["offset_mapping"]) if end > start and ids[i] == tag}
    return (_checked(ids, tuple(at[end] for end in ends if end in at), len(steps)),)


def rlhflow(tokenizer: Tokenizer, chat: Chat, steps: Steps) -> tuple[Laid, ...]:
    """RLHFlow: steps are user turns and every assistant turn is the label; its score is read one token earlier.

    The label tokens are where the conversation with "+" differs from the same conversation with "-".
    """
    clean = partial(_clean, tokenizer, ())
    texts = [clean(step) for step in steps]
    texts[:1] = [f"{clean(problem(chat))} {text}" for text in texts[:1]]

    def told(label: str) -> tuple[int, ...]:
        pairs = [(("user", text), ("assistant", label)) for text in texts]
        return _templated(tokenizer, [{"role": role, "content": said} for pair in pairs for role, said in pair])

    good, bad = told("+"), told("-")
    places = [i - 1 for i, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b]
    return (_checked(good, tuple(places), len(steps)),)


def skywork(tokenizer: Tokenizer, chat: Chat, steps: Steps) -> tuple[Laid, ...]:
    """Skywork-o1-Open-PRM scores every line; a step of several lines has the score of its last one."""
    newline = tokenizer.encode("\n", add_special_tokens=False)[-1]
    clean = partial(_clean, tokenizer, (), strip=False)
    ids = tokenizer.encode(f"{tokenizer.bos_token or ''}{clean(problem(chat))}\n", add_special_tokens=False)
    answer = [clean(step) for step in steps]
    starts = accumulate((len(step) for step in answer), initial=0)
    ends = [start + len(step.rstrip()) for start, step in zip(starts, answer, strict=False)]
    places: list[int] = []
    read = 0
    for line in "".join(answer).rstrip().split("\n"):
        ids += [*(tokenizer.encode(line, add_special_tokens=False) if line else []), newline]
        read += len(line) + 1
        while len(places) < len(ends) and ends[len(places)] < read:
            places.append(len(ids) - 1)
    places += [len(ids) - 1] * (len(steps) - len(places))  # steps with nothing in them
    return (_checked(tuple(ids), tuple(places), len(steps)),)


def qwen(tokenizer: Tokenizer, chat: Chat, steps: Steps) -> tuple[Laid, ...]:
    """Qwen2.5-Math-PRM: the assistant's turn holds the steps, joined and ended by a token of its own."""
    tag = _single(tokenizer, EXTRA)
    clean = partial(_clean, tokenizer, (re.escape(EXTRA),))
    turns = [
        {"role": "system", "content": QWEN_SYSTEM},
        {"role": "user", "content": clean(problem(chat))},
        {"role": "assistant", "content": "".join(clean(step) + EXTRA for step in steps)},
    ]
    ids = _templated(tokenizer, turns)
    return (_checked(ids, tuple(i for i, token in enumerate(ids) if token == tag), len(steps)),)


def trl(tokenizer: Tokenizer, chat: Chat, steps: Steps, separator: str) -> tuple[Laid, ...]:
    """TRL's PRMTrainer: question, then every step followed by the separator, each encoded alone; bos in front."""
    clean = partial(_clean, tokenizer, ())
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids += tokenizer.encode(clean(problem(chat)), add_special_tokens=False)
    between = tokenizer.encode(separator, add_special_tokens=False)
    places: list[int] = []
    for step in steps:
        ids += [*tokenizer.encode(clean(step), add_special_tokens=False), *between]
        places.append(len(ids) - 1)
    return (_checked(tuple(ids), tuple(places), len(steps)),)


def yes_no(tokenizer: Tokenizer, chat: Chat, steps: Steps) -> tuple[Laid, ...]:
    """A generative verifier, asked once per step: one row for each, read at its last token."""
    clean = partial(_clean, tokenizer, (), strip=False)
    question, solution = clean(problem(chat)), [clean(step) for step in steps]
    rows: list[Laid] = []
    for k in range(len(steps)):
        so_far = "".join(solution[: k + 1]).strip()
        asked = prompt(_NoFence(), "verifier/step", package="strop.server.scoring", question=question, solution=so_far)
        turns = [{"role": turn.role, "content": turn.content} for turn in asked.messages]
        ids = _templated(tokenizer, turns, add_generation_prompt=True)
        rows.append(Laid(ids, (len(ids) - 1,)))
    return tuple(rows)


def orm(tokenizer: Tokenizer, chat: Chat, steps: Steps) -> tuple[Laid, ...]:
    """An outcome reward model: the whole conversation, the answer as its last turn."""
    clean = partial(_clean, tokenizer, (), strip=False)
    messages = chat.messages if chat.prompt is None else ()
    turns = [{"role": "system" if m.role == "developer" else m.role, "content": clean(m.content)} for m in messages]
    turns = turns or [{"role": "user", "content": clean(problem(chat))}]
    ids = _templated(tokenizer, [*turns, {"role": "assistant", "content": clean("".join(steps))}])
    return (Laid(ids, (len(ids) - 1,)),)


def plus_minus(tokenizer: Tokenizer) -> tuple[int, int]:
    """Math-Shepherd's labels: the two tokens of "+ -" (648 and 387 in Mistral's vocabulary)."""
    good, bad = tokenizer.encode("+ -", add_special_tokens=False)
    return good, bad


def bare_plus_minus(tokenizer: Tokenizer) -> tuple[int, int]:
    """RLHFlow's labels: the last token of "+" and of "-", each encoded alone."""
    return tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]


def yes_and_no(tokenizer: Tokenizer) -> tuple[int, int]:
    """A generative verifier's labels; each must be a single token."""
    return _single(tokenizer, "Yes"), _single(tokenizer, "No")


FORMATS: Mapping[str, Format] = {
    "math_shepherd": Format(math_shepherd, "labels", plus_minus),
    "rlhflow": Format(rlhflow, "labels", bare_plus_minus),
    "skywork": Format(skywork, "value"),
    "qwen": Format(qwen, "pair"),
    "trl": Format(partial(trl, separator="\n"), "tokens"),
    "trl_paragraphs": Format(partial(trl, separator="\n\n"), "tokens"),
    "yes_no": Format(yes_no, "labels", yes_and_no),
    "orm": Format(orm, "sequence"),
}


def guess(name: str, architectures: Sequence[str]) -> str | None:
    """The format that a model's name and `config.json` tell; None if they tell none."""
    plain = name.lower()
    known = (
        ("math-shepherd" in plain, "math_shepherd"),
        ("prm" in plain and "skywork" in plain, "skywork"),
        ("prm" in plain and ("deepseek-data" in plain or "mistral-data" in plain or "rlhflow" in plain), "rlhflow"),
        (any("ForProcessRewardModel" in each for each in architectures), "qwen"),
        (any(each.endswith("ForTokenClassification") for each in architectures), "trl"),
        (any(each.endswith("ForSequenceClassification") for each in architectures), "orm"),
    )
    return next((found for true, found in known if true), None)


def problem(chat: Chat) -> str:
    """The question as a process reward model sees it, which was trained on bare problems.

    With one user turn and no answers yet, that turn, without the system's; otherwise the whole transcript.
    """
    asked = [m for m in chat.messages if m.role not in ("system", "developer")]
    return asked[0].content if chat.prompt is None and len(asked) == 1 else chat.transcript()


@dataclass(frozen=True, slots=True)
class _NoFence:
    """The verifier's prompt has no fenced text: it is a published layout, not an instruction to be protected."""

    fence: str = ""


def _clean(tokenizer: Tokenizer, tags: Sequence[str], text: str, *, strip: bool = True) -> str:
    """Text with a space for each word that the tokenizer would read as a special token, or that a tag pattern finds."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special and str(token).strip()}
    words = [re.escape(word) for word in sorted(special, key=len, reverse=True)]
    if words or tags:
        text = re.sub("|".join([*tags, *words]), " ", text)
    return text.strip() if strip else text


def _single(tokenizer: Tokenizer, word: str) -> int:
    ids: list[int] = tokenizer.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        raise ScorerError(f"the reward model's tokenizer has no token {word!r}; is reward_format right?")
    return ids[0]


def _templated(tokenizer: Tokenizer, turns: list[dict[str, str]], **how: bool) -> tuple[int, ...]:
    text = tokenizer.apply_chat_template(turns, tokenize=False, **how)
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _checked(ids: tuple[int, ...], places: tuple[int, ...], steps: int) -> Laid:
    if len(places) != steps:
        raise ScorerError(f"the reward model's tokenizer shows {len(places)} of {steps} steps; is reward_format right?")
    return Laid(ids, places)
