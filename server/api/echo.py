"""The prompt of a text completion given back, with the likelihood of its tokens if asked for.

Scoring a prompt is an op of the same run as the completion, so budgets, deadlines and the bill cover it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from strop.server.api.wire.text import TextLogprobs, logprobs_of
from strop.server.service import Selection
from strop.strategies.kit.context import Context
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.events import Event, OpDone
from strop.strategies.kit.ops import Logprobs, Weighed
from strop.strategies.kit.types import Chat, Draft, Tokens

NOTHING = Chat(prompt="", tag="prompt", answers=False)
"""What stands before a prompt that is scored."""


class Echo:
    """One prompt to be repeated; an observer of its run. `top` is the `logprobs` of the request."""

    def __init__(self, prompt: str | tuple[int, ...], top: int | None) -> None:
        self.prompt = prompt
        self.top = top
        self.tokens = Tokens()

    @property
    def scores(self) -> bool:
        """Whether the engine has to look at the prompt: for its logprobs, or for the text of its token ids."""
        return bool(self.prompt) and (self.top is not None or not isinstance(self.prompt, str))

    @property
    def text(self) -> str:
        """The prompt as text."""
        return self.prompt if isinstance(self.prompt, str) else "".join(self.tokens.texts)

    def logprobs(self) -> TextLogprobs | None:
        """Those of the prompt; the first token has none, since nothing comes before it."""
        found = logprobs_of(self.tokens, self.top)
        if found is not None:
            found["token_logprobs"][0] = None
            if found["top_logprobs"]:
                found["top_logprobs"][0] = None
        return found

    def __call__(self, event: Event) -> None:
        if isinstance(event, OpDone) and isinstance(event.op, Logprobs) and event.op.chat == NOTHING:
            self.tokens = event.result.values[0].tokens if isinstance(event.result, Weighed) else Tokens()

    def before(self, selection: Selection, *, only: bool) -> Selection:
        """The selection with the scoring of the prompt before the strategy, or, with `only`, instead of it."""
        body, wanted = selection.strategy.body, max(1, self.top or 0)

        async def echoed(ctx: Context, question: Chat, **knobs: Any) -> Draft | list[Draft]:
            if self.scores:
                [value] = await ctx.logprobs(NOTHING, [self._draft()], top=wanted)
                if not value.tokens.texts:
                    raise BadRequest("this engine does not say which tokens a prompt has", param="echo")
            if only:
                return [Draft("", "length")] * ctx.choices
            return await body(ctx, question, **knobs)

        strategy = selection.strategy
        return replace(selection, strategy=replace(strategy, body=echoed, ranked=only or strategy.ranked))

    def _draft(self) -> Draft:
        if isinstance(self.prompt, str):
            return Draft(self.prompt, "length")
        return Draft("", "length", tokens=Tokens(self.prompt, ("",) * len(self.prompt)))


def joined(first: TextLogprobs | None, rest: TextLogprobs | None, offset: int) -> TextLogprobs | None:
    """The columns of a prompt and of what follows it; `offset` is where the second begins."""
    if first is None or rest is None:
        return first or rest
    return {
        "tokens": first["tokens"] + rest["tokens"],
        "token_logprobs": first["token_logprobs"] + rest["token_logprobs"],
        "top_logprobs": first["top_logprobs"] + rest["top_logprobs"],
        "text_offset": first["text_offset"] + [offset + place for place in rest["text_offset"]],
    }
