"""Ops: frozen requests to the outside world, and their results. Everything below `Context` sees only these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from strop.strategies.kit.types import Chat, Draft, Logprob, Prefix, Usage, Verdict


@dataclass(frozen=True, slots=True)
class Generate:
    """Sample `n` drafts of `chat`, or `n` continuations of `prefix`.

    `want` names capabilities whose numbers must come back with the drafts ("tokens", "logprobs", "entropy",
    "certainty"); an engine may send more. `model` is a role: "policy", or another engine such as "judge".
    A draft that continues a prefix is the whole turn, the prefix included.
    """

    chat: Chat
    n: int = 1
    prefix: Prefix | None = None
    want: tuple[str, ...] = ()
    model: str = "policy"
    kind: Literal["generate"] = "generate"

    @property
    def tag(self) -> str:
        """The phase: "draft", "critique", "revise", ..."""
        return self.chat.tag


@dataclass(frozen=True, slots=True)
class Score:
    """Outcome scores of `drafts`; higher is better. `by` names a registered scorer."""

    chat: Chat
    drafts: tuple[Draft, ...]
    by: str = "judge"
    kind: Literal["score"] = "score"

    @property
    def tag(self) -> str:
        """The phase."""
        return self.by


@dataclass(frozen=True, slots=True)
class Steps:
    """Process rewards of one draft, one per step, in [0, 1]."""

    chat: Chat
    draft: Draft
    by: str = "prm"
    kind: Literal["steps"] = "steps"

    @property
    def tag(self) -> str:
        """The phase."""
        return self.by


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Likelihood of `drafts` under `chat`, without sampling.

    With `top` above 0 the tokens come back too, each with the `top` likeliest tokens in its place. Under an empty raw
    prompt the first token of a draft has nothing before it; its logprob says nothing then.
    """

    chat: Chat
    drafts: tuple[Draft, ...]
    model: str = "policy"
    top: int = 0
    kind: Literal["logprobs"] = "logprobs"

    @property
    def tag(self) -> str:
        """The phase."""
        return "logprobs"


@dataclass(frozen=True, slots=True)
class Verify:
    """Check `drafts` by a program: `by` names a verifier, `spec` holds its parameters."""

    chat: Chat
    drafts: tuple[Draft, ...]
    by: str
    spec: dict[str, Any] = field(default_factory=dict)
    kind: Literal["verify"] = "verify"

    @property
    def tag(self) -> str:
        """The phase."""
        return self.by


@dataclass(frozen=True, slots=True)
class Generated:
    """Result of `Generate`: `n` drafts, in order. `prompt_tokens` is the length of the prompt that each of them saw."""

    drafts: tuple[Draft, ...]
    usage: Usage = Usage()
    prompt_tokens: int = 0
    kind: Literal["generated"] = "generated"


@dataclass(frozen=True, slots=True)
class Scored:
    """Result of `Score`: one value per draft; None where the scorer could not tell. `notes` are its words."""

    values: tuple[float | None, ...]
    notes: tuple[str, ...] = ()
    usage: Usage = Usage()
    kind: Literal["scored"] = "scored"


@dataclass(frozen=True, slots=True)
class Stepped:
    """Result of `Steps`: one reward per step, with the text of each step."""

    rewards: tuple[float, ...]
    steps: tuple[str, ...] = ()
    usage: Usage = Usage()
    kind: Literal["stepped"] = "stepped"


@dataclass(frozen=True, slots=True)
class Weighed:
    """Result of `Logprobs`: one likelihood per draft."""

    values: tuple[Logprob, ...]
    usage: Usage = Usage()
    kind: Literal["weighed"] = "weighed"


@dataclass(frozen=True, slots=True)
class Verified:
    """Result of `Verify`: one verdict per draft."""

    verdicts: tuple[Verdict, ...]
    usage: Usage = Usage()
    kind: Literal["verified"] = "verified"


Op = Generate | Score | Steps | Logprobs | Verify
Result = Generated | Scored | Stepped | Weighed | Verified
