"""What a simulated model would say: a small probabilistic model of answering, judging and revising.

Everything is a fixed function of the brain's numbers, the question and a key, so a run can be repeated; two keys give
independent draws. The model:

* Every question has one right answer, `truth(question)`: sums are computed, other questions get a stable number.
* A draft is right with probability p(question). `spread` is the correlation between drafts of one question:
  p(question) is drawn once per question from a Beta distribution with mean `skill` and intra-class correlation
  `spread`; with 0 every question has p = `skill`, with 1 each is always or never answered right.
* A wrong draft gives one of `rivals` wrong answers, the k-th with probability proportional to k ** -`focus`:
  0 is uniform, large values make all errors agree.
* A judge is right with probability `taste`: verdicts, and comparisons of a right and a wrong draft; comparisons of two
  equally good drafts are coin flips. Scores are two normal distributions one `taste` apart: a right draft outscores
  a wrong one with probability `taste` (the AUC). `taste` 1 is an oracle, 0.5 knows nothing.
* A revision keeps a right answer with probability `confidence` (CL) and repairs a wrong one with probability `insight`
  (CS); so accuracy after one revision is p CL + (1 - p) CS. A repair that fails leaves the answer as it was.
* JSON asked for comes out valid with probability `fluency`.
* A draft has about `length` words (uniform between half and one and a half), in steps divided by blank lines.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from statistics import NormalDist

from strop.strategies.kit.types import Chat, Draft, Prefix, ToolCall
from strop.strategies.testing.shapes import fitting
from strop.strategies.testing.words import words

_SUM = re.compile(r"-?\d+(?:\s*[-+*]\s*\d+)+")
_BLOCK = re.compile(r"<([a-z_]+) (\S+)>\n(.*?)\n</\1 \2>", re.DOTALL)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_NORMAL = NormalDist()
REVISED = {"candidate", "answer", "draft"}
"""Names of the prompt blocks that hold the draft to revise or to judge."""


def truth_of(question: str) -> str:
    """The right answer: the value of the first sum of whole numbers (+, -, *) in the question, else a stable number."""
    found = _SUM.search(question)
    return str(_value(found.group(0))) if found else str(10 + int(90 * unit("truth", question)))


def _value(expression: str) -> int:
    terms = re.split(r"(?<=\d)\s*([-+])\s*", expression)
    total = 0
    for sign, term in zip(["+", *terms[1::2]], terms[::2], strict=True):
        product = math.prod(int(factor) for factor in term.split("*"))
        total += product if sign == "+" else -product
    return total


def unit(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts and looks random."""
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=7).digest()
    return (int.from_bytes(digest, "big") >> 3) / (1 << 53)


@dataclass(frozen=True, slots=True)
class Brain:
    """See the module's docstring for what the numbers mean."""

    skill: float = 0.6
    taste: float = 0.8
    spread: float = 0.0
    focus: float = 1.0
    rivals: int = 4
    confidence: float = 0.9
    insight: float = 0.3
    fluency: float = 1.0
    length: int = 40
    seed: int = 0
    truth: Callable[[str], str] = truth_of

    # ---- speaking ----------------------------------------------------------------------------------------------

    def say(self, chat: Chat, key: str, prefix: Prefix | None = None) -> str:
        """What the model writes: the whole turn, or what follows the prefix and the words inserted after it."""
        if not chat.answers and (verdict := self._verdict(chat, key)) is not None:
            return verdict
        if prefix is not None:
            return self._go_on(chat, key, prefix)
        return self._turn(chat, key, self.length * (0.5 + self._unit("length", key)))

    def calls(self, chat: Chat, key: str) -> tuple[ToolCall, ...]:
        """The tools the model calls instead of answering: the first one allowed, until it has seen a tool's result."""
        mode = chat.tool_choice.mode
        if not chat.tools or mode == "none" or (mode == "auto" and any(m.role == "tool" for m in chat.messages)):
            return ()
        tool = next((t for t in chat.tools if t.name == chat.tool_choice.name), chat.tools[0])
        arguments = fitting(tool.parameters or {"type": "object"}, self.answer(*task_of(chat), key))
        return (ToolCall(f"call_{int(unit(key) * 1e9):09d}", tool.name, json.dumps(arguments)),)

    def answer(self, question: str, old: str | None, key: str) -> str:
        """A sampled answer to the question, or a revision of the draft `old`."""
        right = self.truth(question)
        if old is None:
            return right if self._unit("draft", question, key) < self.skill_on(question) else self._wrong(question, key)
        if self.is_right(question, old):
            return right if self._unit("keep", question, key) < self.confidence else self._wrong(question, key)
        return right if self._unit("repair", question, key) < self.insight else said(old) or self._wrong(question, key)

    def _turn(self, chat: Chat, key: str, length: float) -> str:
        answer = self.answer(*task_of(chat), key)
        if chat.format.kind != "text":
            schema = chat.format.schema or {"type": "object", "properties": {"answer": {}}, "required": ["answer"]}
            text = json.dumps(fitting(schema, answer))
            return text if self._unit("fluent", key) < self.fluency else text[:-1]
        ending = f"The answer is \\boxed{{{answer}}}."
        steps = self._steps(key, length - len(words(ending)))
        return "\n\n".join([*steps, ending])

    def _steps(self, key: str, length: float) -> Iterator[str]:
        number = 0
        while length > 0:
            number += 1
            step = f"Step {number}: part {number} of the question gives {int(1000 * self._unit('step', number, key))}."
            yield "".join(words(step)[: math.ceil(length)])
            length -= len(words(step)) + 1

    def _go_on(self, chat: Chat, key: str, prefix: Prefix) -> str:
        before = prefix.draft.text
        if not prefix.inject:
            whole = self._turn(chat, key, self.length * (0.5 + self._unit("length", key)))
            if whole.startswith(before):
                return whole[len(before) :]
            if said(before) is not None:
                return ""
        left = self.length * (0.5 + self._unit("length", key)) - len(words(before + prefix.inject))
        question, old = task_of(chat)
        ending = self.answer(question, before if said(before) is not None else old, key)
        gap = "" if (before + prefix.inject).endswith("\n") else "\n\n"
        return gap + "\n\n".join([*self._steps(key, left), f"The answer is \\boxed{{{ending}}}."])

    # ---- judging -----------------------------------------------------------------------------------------------

    def approves(self, question: str, text: str, key: str) -> bool:
        """A verdict on a draft."""
        return self.is_right(question, text) == (self._unit("verdict", question, key) < self.taste)

    def prefers(self, question: str, first: str, second: str, key: str) -> bool:
        """Whether the first of two drafts is judged better."""
        a, b = self.is_right(question, first), self.is_right(question, second)
        draw = self._unit("prefer", question, key)
        return draw < 0.5 if a == b else a == (draw < self.taste)

    def score(self, question: str, text: str, key: str) -> float:
        """A score in (0, 1); a right draft's is higher than a wrong one's with probability `taste`."""
        right = self.is_right(question, text)
        noise = _NORMAL.inv_cdf(min(max(self._unit("score", question, key), 1e-12), 1 - 1e-12))
        if self.taste >= 1.0:
            return 0.75 + 0.02 * noise if right else 0.25 + 0.02 * noise
        gap = math.sqrt(2.0) * _NORMAL.inv_cdf(max(self.taste, 1e-9))
        return 1.0 / (1.0 + math.exp(-(noise + (gap / 2 if right else -gap / 2))))

    def rewards(self, question: str, steps: list[str], text: str, key: str) -> tuple[float, ...]:
        """One reward per step: a wrong draft goes wrong at a random step, and everything after it looks bad."""
        error = len(steps) if self.is_right(question, text) else int(len(steps) * self._unit("error", question, key))
        rewards = []
        for place in range(len(steps)):
            good = (place < error) == (self._unit("reward", question, place, key) < self.taste)
            rewards.append((0.6 if good else 0.0) + 0.4 * self._unit("shade", question, place, key))
        return tuple(rewards)

    def is_right(self, question: str, text: str) -> bool:
        """Whether a draft gives the right answer."""
        return said(text) == self.truth(question)

    def skill_on(self, question: str) -> float:
        """The probability that a draft of this question is right."""
        if self.spread <= 0.0 or not 0.0 < self.skill < 1.0:
            return self.skill
        if self.spread >= 1.0:
            return float(self._unit("talent", question) < self.skill)
        mass = 1.0 / self.spread - 1.0
        return Random(f"{self.seed}:{question}").betavariate(self.skill * mass, (1.0 - self.skill) * mass)

    def _verdict(self, chat: Chat, key: str) -> str | None:
        """The reply to a judge's or critic's prompt, in the form its last turn asks for; None for other prompts."""
        form = chat.messages[-1].content if chat.messages else ""
        blocks = {name: text for name, _, text in _BLOCK.findall(form)}
        question = blocks.pop("question", "")
        candidates = list(blocks.values())
        if not candidates:
            return None
        if "A or B" in form and len(candidates) > 1:
            return "A" if self.prefers(question, candidates[0], candidates[1], key) else "B"
        if "SCORE:" in form:
            return f"SCORE: {1 + round(9 * self.score(question, candidates[0], key))}"
        good = self.approves(question, candidates[0], key)
        if "VERDICT:" in form:
            remark = "Every step holds." if good else "There is a mistake in one of the steps; work it out again."
            return f"{remark}\n\nVERDICT: {'correct' if good else 'wrong'}"
        return ("Yes" if good else "No") if "Yes or No" in form else None

    def _wrong(self, question: str, key: str) -> str:
        weights = [k**-self.focus for k in range(1, self.rivals + 1)]
        draw = self._unit("wrong", question, key) * sum(weights)
        k = 1
        while k < self.rivals and draw >= weights[k - 1]:
            draw -= weights[k - 1]
            k += 1
        right = self.truth(question)
        return str(int(right) + k) if right.lstrip("-").isdigit() else f"{right} {k}"

    def _unit(self, *parts: object) -> float:
        return unit(self.seed, *parts)


def said(text: str) -> str | None:
    """The answer of a simulated draft: its last boxed value, else the first scalar of its JSON."""
    boxed = _BOXED.findall(text)
    if boxed:
        return str(boxed[-1])
    try:
        value = json.loads(text)
    except ValueError:
        return None
    while isinstance(value, dict | list) and value:
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return str(value) if isinstance(value, str | int | float) else None


def shown(draft: Draft) -> str:
    """A draft as a judge sees it: text, else the arguments of its first call."""
    return draft.text or (draft.tool_calls[0].arguments if draft.tool_calls else "")


def task_of(chat: Chat) -> tuple[str, str | None]:
    """The question of a chat and, when the last turn asks for a revision, the draft to revise."""
    asked = [message.content for message in chat.messages if message.role == "user"]
    old = next((text for name, _, text in _BLOCK.findall(asked[-1]) if name in REVISED), None) if asked else None
    if old is None:
        return chat.question, None
    return (asked[-2] if len(asked) > 1 else chat.question), old
