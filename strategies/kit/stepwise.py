"""Answers that grow: paths of steps, one more step for each of them, and what they are worth so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from strop.strategies.kit.context import Context
from strop.strategies.kit.errors import ContextTooLong
from strop.strategies.kit.rank import heat, shown
from strop.strategies.kit.steps import How, aggregate
from strop.strategies.kit.types import Chat, Draft, Prefix

BREAK = "\n\n"
"""What ends a step. The engine stops there and cuts it off; it is put back when the step after it is asked for."""
SPARE = 2
"""Tokens that `BREAK` may take."""


@dataclass(frozen=True, slots=True)
class Path:
    """A draft in the making. `over`: nothing can follow it. `root` names the subtree it grew in."""

    draft: Draft
    over: bool = False
    score: float | None = None
    root: int = 0

    @property
    def finished(self) -> bool:
        """The model ended it; a path that is over without that was cut off by a limit."""
        return self.over and self.draft.finish != "length"

    @property
    def servable(self) -> Draft:
        """The draft, marked as unfinished unless it is finished."""
        return self.draft if self.finished else replace(self.draft, finish="length")


@dataclass(frozen=True)
class Stepper:
    """How the paths of one request grow and are scored.

    `by` is "prm" (process rewards of the steps so far, put together by `how`) or an outcome scorer, which is shown the
    text so far. A step ends at a blank line; one that is cut off at `step_tokens` goes on as the next step. Answers by
    tool call or in JSON are a single step. A path scored None could not be told. With an empty `pause` the steps are
    stretches of `step_tokens` tokens.
    """

    ctx: Context
    question: Chat
    by: str = "prm"
    how: How = "last"
    step_tokens: int = 512
    pause: str = BREAK

    @classmethod
    def of(
        cls, ctx: Context, question: Chat, temperature: float | None, by: str, how: How, step_tokens: int
    ) -> Stepper:
        """Drafts are sampled warm (see `heat`)."""
        return cls(ctx, question.but(temperature=heat(question, temperature)), by, how, step_tokens)

    @property
    def whole(self) -> bool:
        """Whether answers are a single step."""
        chat = self.question
        return chat.format.kind != "text" or bool(chat.tools and chat.tool_choice.mode != "none")

    async def start(self, n: int, *, last: bool = False) -> list[Path]:
        """`n` first steps (with `last`, `n` whole answers), not scored."""
        drafts = await self._generate(n, None, last)
        return [self._path(draft, 0, last) for draft in drafts]

    async def grow(self, paths: Sequence[Path], copies: Sequence[int], *, last: bool = False) -> list[Path]:
        """`copies[i]` different next steps of each path, in order, not scored; paths that are over stay as they are.

        With `last` the answers are written to their end. Paths for which the budget did not suffice are left out.
        """

        async def one(i: int) -> tuple[int, list[Path]]:
            path = paths[i]
            try:
                drafts = await self._generate(copies[i], path.draft, last)
            except ContextTooLong:
                return i, [replace(path, over=True, draft=path.servable)] * copies[i]
            return i, [self._path(draft, path.root, last) for draft in drafts]

        live = [i for i, path in enumerate(paths) if copies[i] and not path.over]
        after = {i: [path] * copies[i] for i, path in enumerate(paths) if path.over}
        after |= dict(await self.ctx.map(one, live, name="step"))
        return [path for i in sorted(after) for path in after[i]]

    async def scored(self, paths: Sequence[Path]) -> list[Path]:
        """The paths with their scores; those that have one keep it."""
        new = [i for i, path in enumerate(paths) if path.score is None]
        scores = dict(zip(new, await self.values([paths[i].draft for i in new]), strict=True))
        return [replace(path, score=scores.get(i, path.score)) for i, path in enumerate(paths)]

    async def values(self, drafts: Sequence[Draft]) -> list[float | None]:
        """What the drafts are worth so far. Equal texts are scored once."""
        first = {shown(draft): draft for draft in reversed(drafts)}
        texts = list(dict.fromkeys(map(shown, drafts)))
        if self.by == "prm":
            found = dict(await self.ctx.map(lambda text: self._rewarded(first[text]), texts, name="value"))
        elif texts:
            scores = await self.ctx.score(self.question, [first[text] for text in texts], by=self.by)
            found = dict(zip(texts, scores, strict=True))
        else:
            found = {}
        return [found.get(shown(draft)) for draft in drafts]

    async def _rewarded(self, draft: Draft) -> tuple[str, float | None]:
        return shown(draft), aggregate(await self.ctx.steps(self.question, draft), self.how)

    async def _generate(self, n: int, before: Draft | None, last: bool) -> list[Draft]:
        sampling, length = self.question.sampling, before.n_tokens if before else 0
        unlimited = last or self.whole
        limits = [] if unlimited else [self.step_tokens]
        if sampling.max_tokens is not None:
            limits.append(max(1, sampling.max_tokens - length - (SPARE if before else 0)))
        room = min(limits, default=None)
        least = max(0, sampling.min_tokens - length)
        return await self.ctx.generate(
            self.question,
            n=n,
            prefix=None if before is None else Prefix(before, self.pause if self._broke(before) else ""),
            max_tokens=room,
            min_tokens=least if room is None else min(least, room),
            stop=sampling.stop if unlimited or self.pause in ("", *sampling.stop) else (*sampling.stop, self.pause),
        )

    def _broke(self, draft: Draft) -> bool:
        mine = self.pause not in ("", *self.question.sampling.stop)
        return mine and draft.finish == "stop" and draft.stop_reason == self.pause

    def _path(self, draft: Draft, root: int, last: bool) -> Path:
        limit = self.question.sampling.max_tokens
        full = limit is not None and draft.n_tokens + SPARE >= limit
        goes_on = (self._broke(draft) or draft.finish == "length") and not (last or self.whole)
        if goes_on and full:
            draft = replace(draft, finish="length")
        return Path(draft, not goes_on or full, None, root)


def best_first(paths: Sequence[Path]) -> list[Path]:
    """By score; those without one come last, equal ones keep their order."""
    return sorted(paths, key=lambda path: inf if path.score is None else -path.score)


def distinct(paths: Sequence[Path]) -> list[Path]:
    """The first path of every text."""
    return list({shown(path.draft): path for path in reversed(paths)}.values())[::-1]


def spread(total: int, among: int) -> list[int]:
    """`total` shared out as evenly as it goes, the first getting more."""
    return [total // among + (i < total % among) for i in range(among)]


def keep_best(ctx: Context, paths: Sequence[Path]) -> None:
    """Remember the best finished path, or until there is one, the most promising of the others."""
    finished = best_first([path for path in paths if path.finished])
    if finished:
        ctx.keep(finished[0].draft, finished[0].score)
    elif paths:
        ctx.keep(best_first(paths)[0].servable)


def rooted(paths: Sequence[Path], trees: int) -> list[Path]:
    """The same paths as the beginnings of so many trees, neighbours in one tree."""
    names = [root for root, count in enumerate(spread(len(paths), trees)) for _ in range(count)]
    return [replace(path, root=root) for path, root in zip(paths, names, strict=True)]
