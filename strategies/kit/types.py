"""The nouns: what is asked, what is answered, what it cost. All frozen; all serialise to JSON (see `trace`)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "tool_calls", "content_filter", "abort"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One function call of an assistant turn. `arguments` is JSON text, exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Text content parts are already joined."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools may, must or must not be called; `name` only with mode "named"."""

    mode: Literal["none", "auto", "required", "named"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """The shape an answer must have (OpenAI's response_format)."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode. None means: the engine's default for that model."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation and how it wants to be answered.

    The client's question carries the client's sampling, tools and format, so whatever is derived from it with
    `then` or `but` is answered under the same rules. A chat made from a prompt file carries none of them:
    critiques and verdicts are never constrained by what the client asked of the answer.
    `prompt`, when set, replaces the messages: raw text or token ids, no chat template.
    `tag` names the phase in traces, bills and metrics; `answers` tells whether a draft of this chat could be served.
    """

    messages: tuple[Message, ...] = ()
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    format: Format = Format()
    prompt: str | tuple[int, ...] | None = None
    tag: str = "draft"
    answers: bool = True

    @property
    def question(self) -> str:
        """Text of the last user turn, or the raw prompt; empty if there is neither."""
        if isinstance(self.prompt, str):
            return self.prompt
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    def transcript(self) -> str:
        """The conversation as plain text, one `role: content` block per turn (for critics and judges)."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.messages) == 1:
            return self.messages[0].content
        return "\n\n".join(f"{m.role}: {m.content or _calls(m)}" for m in self.messages)

    def then(self, *more: Message, tag: str | None = None) -> Chat:
        """The same chat, some turns later."""
        return replace(self, messages=self.messages + more, tag=tag or self.tag)

    def followed_by(self, prompt: Chat) -> Chat:
        """The same chat with the turns of a prompt file appended; it takes the prompt's tag."""
        return self.then(*prompt.messages, tag=prompt.tag)

    def but(self, **sampling: Any) -> Chat:
        """The same chat with other sampling values; a value of None leaves that field alone."""
        changed = {name: value for name, value in sampling.items() if value is not None}
        return replace(self, sampling=replace(self.sampling, **changed)) if changed else self


def _calls(message: Message) -> str:
    return "; ".join(f"calls {c.name}({c.arguments})" for c in message.tool_calls)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a draft, column by column; every column that is not empty has one entry per token.

    `logprobs`, `entropies` and `certainties` are in nats at temperature 1, before any sampling filter.
    `certainties` is self-certainty, the mean of -log p over the vocabulary minus log V (arXiv 2502.18581).
    `top` holds (token id, token text, logprob) triples, best first.
    """

    ids: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    certainties: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, str, float], ...], ...] = ()

    def __len__(self) -> int:
        return max(len(self.ids), len(self.texts))

    def __getitem__(self, part: slice) -> Tokens:
        return Tokens(*(getattr(self, column.name)[part] for column in fields(self)))

    def __add__(self, more: Tokens) -> Tokens:
        """These tokens, then those. A column that one side lacks is left empty rather than misaligned."""
        if not (len(self) and len(more)):
            return self if len(self) else more
        pairs = [(getattr(self, column.name), getattr(more, column.name)) for column in fields(self)]
        return Tokens(*(a + b if a and b else () for a, b in pairs))

    @classmethod
    def given(cls, ids: tuple[int, ...], texts: tuple[str, ...]) -> Tokens:
        """Tokens that nobody sampled: they add nothing to the sums of a draft."""
        zeros = (0.0,) * len(ids)
        return cls(ids, texts, zeros, zeros, zeros, ((),) * len(ids))


@dataclass(frozen=True, slots=True)
class Draft:
    """A candidate answer: one whole assistant turn so far.

    `tokens` is empty when the engine does not report tokens; `n_tokens` counts them anyway, injected ones included.
    `injected` holds half-open token ranges that strop inserted rather than the model wrote.
    `clipped` says that the budget, not the client's own limit, ended the draft.
    """

    text: str
    finish: Finish = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: Tokens = Tokens()
    n_tokens: int = 0
    injected: tuple[tuple[int, int], ...] = ()
    stop_reason: str | int | None = None
    reasoning: str = ""
    clipped: bool = False
    span: str = ""

    @property
    def logprob(self) -> float | None:
        """Sum of the token logprobs (nats); None when the engine reported none."""
        return sum(self.tokens.logprobs) if self.tokens.logprobs else None

    @property
    def mean_logprob(self) -> float | None:
        """Mean logprob of the tokens the model wrote (nats per token)."""
        return self._mean(self.tokens.logprobs)

    @property
    def certainty(self) -> float | None:
        """Mean self-certainty over the tokens the model wrote (nats); higher is surer."""
        return self._mean(self.tokens.certainties)

    def _mean(self, column: tuple[float, ...]) -> float | None:
        written = len(column) - self.n_injected
        return sum(column) / written if written > 0 else None

    @property
    def n_injected(self) -> int:
        """Tokens that strop inserted."""
        return sum(end - start for start, end in self.injected)

    @property
    def message(self) -> Message:
        """The draft as an assistant turn."""
        return Message("assistant", self.text, self.tool_calls)

    def cut(self, n_tokens: int) -> Draft:
        """The first `n_tokens` tokens of the draft, as an unfinished draft. Needs token texts."""
        tokens = self.tokens[:n_tokens]
        kept = tuple((start, min(end, n_tokens)) for start, end in self.injected if start < n_tokens)
        return replace(
            self, text="".join(tokens.texts), tokens=tokens, n_tokens=len(tokens), injected=kept, finish="length"
        )


@dataclass(frozen=True, slots=True)
class Prefix:
    """Continue this draft after inserting `inject`; token-exact where the engine speaks tokens."""

    draft: Draft
    inject: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the engine did: token counts, generations started, and seconds it worked.

    `prompt` counts the prompt tokens that engines were given, once per op where its drafts share the prompt, `cached`
    the part of them read from a prefix cache, `completion` the tokens generated, `injected` the tokens strop inserted
    into an answer (part of `prompt`), `calls` the drafts started.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    injected: int = 0
    calls: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.injected + other.injected,
            self.calls + other.calls,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier found. `ok` is None when it could not tell."""

    ok: bool | None
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Logprob:
    """Teacher-forced likelihood of a draft under a chat: per-token logprobs and entropies (nats).

    `tokens` is filled when alternatives were asked for.
    """

    logprobs: tuple[float, ...]
    entropies: tuple[float, ...] = ()
    tokens: Tokens = Tokens()

    @property
    def total(self) -> float:
        """Sum over tokens."""
        return sum(self.logprobs)

    @property
    def mean(self) -> float:
        """Mean per token; 0.0 for an empty draft."""
        return self.total / len(self.logprobs) if self.logprobs else 0.0
