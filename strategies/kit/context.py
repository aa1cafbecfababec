"""Context: the verbs a strategy may use, and no others (a new one needs a decision record)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeVar

from strop.strategies.kit import ops
from strop.strategies.kit.budget import Admitted, Purse
from strop.strategies.kit.errors import BudgetSpent, EngineError
from strop.strategies.kit.events import Committed, Event, Kept, Noted, Observer, OpDone, OpStarted
from strop.strategies.kit.fan import fan_out
from strop.strategies.kit.span import Branch, Delta, Span, mix
from strop.strategies.kit.types import Chat, Draft, Logprob, Prefix, Usage, Verdict

Perform = Callable[[ops.Op, Span], Awaitable[ops.Result]]
"""The one shape of every layer below a strategy."""

T = TypeVar("T")
R = TypeVar("R")
Done = TypeVar("Done", ops.Generated, ops.Scored, ops.Stepped, ops.Weighed, ops.Verified)

_branch: ContextVar[Branch] = ContextVar("strop_branch")


@dataclass(frozen=True, slots=True)
class Best:
    """A kept draft. Scored drafts beat unscored ones; higher scores beat lower; the earlier place wins a tie.

    Among unscored drafts the later place in the program wins. So the best never depends on timing.
    """

    draft: Draft
    score: float | None
    order: tuple[int, ...]

    def beats(self, other: Best | None) -> bool:
        """Whether this one replaces `other`."""
        if other is None:
            return True
        if self.score is None or other.score is None:
            return other.score is None and (self.score is not None or self.order >= other.order)
        return self.score > other.score or (self.score == other.score and self.order < other.order)


class Context:
    """One request's way to the outside world.

    `choices` is how many answers the client wants; `live`, whether anybody reads words while they are decoded.
    `fence` is a random word of this request that delimits untrusted text in prompts. `seed` is the client's seed,
    mixed with each op's key.
    """

    def __init__(
        self,
        perform: Perform,
        *,
        root: str = "run",
        purse: Purse | None = None,
        seed: int | None = None,
        choices: int = 1,
        fence: str = "fence",
        live: bool = True,
        observe: Sequence[Observer] = (),
    ) -> None:
        self.choices = choices
        self.fence = fence
        self.seed = seed
        self.best: Best | None = None
        self.drafted: list[Draft] = []
        self.partials: list[Draft] = []
        self.committed: dict[int, str] = {}
        self.phases: dict[str, Usage] = {}
        self.unpriced = False
        self.clipped = False
        self.root = Branch(root, purse or Purse())
        self._live = live
        self._perform = perform
        self._observers = observe
        self._began = perf_counter()
        _branch.set(self.root)

    # ---- verbs -------------------------------------------------------------------------------------------------

    async def generate(
        self,
        chat: Chat,
        *,
        n: int = 1,
        prefix: Prefix | None = None,
        want: Iterable[str] = (),
        final: bool = False,
        model: str = "policy",
        **sampling: Any,
    ) -> list[Draft]:
        """Sample `n` drafts; keyword arguments override the chat's sampling.

        `final` says that whatever comes is the answer, so its words are committed (streamed) as they are decoded.
        The budget may shorten the drafts or their number; with nothing left it raises `BudgetSpent`.
        """
        span = self._span()
        if self.seed is not None and sampling.get("seed") is None:
            sampling["seed"] = mix(self.seed, span.key)
        if final and self._live and (self.choices == 1 or _branch.get() is self.root):
            span.live = self._commit_delta
            self._commit_prefix(prefix)
        wanted = {*want, "logprobs"} if chat.sampling.logprobs else set(want)
        op = ops.Generate(chat.but(**sampling), n, prefix, tuple(sorted(wanted)), model)
        result = await self._ask(op, span, ops.Generated)
        return list(result.drafts)

    async def score(self, chat: Chat, drafts: Sequence[Draft], *, by: str = "judge") -> list[float | None]:
        """Outcome scores, higher is better; None where the scorer could not tell."""
        result = await self._ask(ops.Score(chat, tuple(drafts), by), self._span(), ops.Scored)
        return list(result.values)

    async def steps(self, chat: Chat, draft: Draft, *, by: str = "prm") -> list[float]:
        """Process rewards in [0, 1], one per step of the draft."""
        result = await self._ask(ops.Steps(chat, draft, by), self._span(), ops.Stepped)
        return list(result.rewards)

    async def logprobs(
        self, chat: Chat, drafts: Sequence[Draft], *, model: str = "policy", top: int = 0
    ) -> list[Logprob]:
        """Likelihood of given drafts under the chat; with `top`, the likeliest tokens in every place too."""
        result = await self._ask(ops.Logprobs(chat, tuple(drafts), model, top), self._span(), ops.Weighed)
        return list(result.values)

    async def verify(self, chat: Chat, drafts: Sequence[Draft], *, by: str, **spec: Any) -> list[Verdict]:
        """Check drafts by a program."""
        result = await self._ask(ops.Verify(chat, tuple(drafts), by, spec), self._span(), ops.Verified)
        return list(result.verdicts)

    async def map(
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        *,
        name: str = "map",
        until: Callable[[list[R]], bool] | None = None,
    ) -> list[R]:
        """Run `fn` on every item at once; results in item order. The only concurrency a strategy has.

        Each branch gets an equal share of the budget; a branch that spends it ends alone and is left out, and
        `BudgetSpent` is raised only if all did. `until` looks at ever longer prefixes of the results in item order;
        at the first that satisfies it, the remaining branches are cancelled and that prefix is returned. So what is
        returned depends on the results alone, never on which branch was faster.
        """
        todo = list(items)
        parent = _branch.get()
        children = parent.children(name, len(todo)) if todo else []

        async def one(i: int) -> R:
            _branch.set(children[i])
            try:
                return await fn(todo[i])
            except BudgetSpent:
                self.clipped = True
                raise

        try:
            results = await fan_out(one, len(todo), until)
        finally:
            parent.purse.absorb([child.purse for child in children])
        if todo and not results:
            raise BudgetSpent("tokens")
        return results

    def keep(self, draft: Draft, score: float | None = None) -> None:
        """Remember the best draft so far: it is served if the budget or the deadline ends the run."""
        branch = _branch.get()
        candidate = Best(draft, score, (*branch.order, branch.next()))
        if candidate.beats(self.best):
            self.best = candidate
            self._emit(Kept(branch.path, draft, score))

    def commit(self, text: str) -> None:
        """These words are final: stream them now. The answer must start with everything committed."""
        if text and self.choices == 1:
            self._commit_delta(Delta(text))

    def note(self, **facts: Any) -> None:
        """Put facts into the trace."""
        self._emit(Noted(_branch.get().path, facts))

    # ---- machinery ---------------------------------------------------------------------------------------------

    def _span(self) -> Span:
        branch = _branch.get()
        key = f"{branch.path}#{branch.next()}"
        return Span(key, None if self.seed is None else mix(self.seed, key))

    def _commit_prefix(self, prefix: Prefix | None) -> None:
        """An op that continues a draft tells only its new words, so what they follow is told here."""
        if prefix is not None and self.choices == 1:
            self.commit((prefix.draft.text + prefix.inject).removeprefix(self.committed.get(0, "")))

    def _commit_delta(self, delta: Delta) -> None:
        self.committed[delta.index] = self.committed.get(delta.index, "") + delta.text
        self._emit(Committed(delta))

    async def _ask(self, asked: ops.Op, span: Span, kind: type[Done]) -> Done:
        purse = _branch.get().purse
        admitted = purse.admit(asked)
        self.clipped |= isinstance(asked, ops.Generate) and asked.n > getattr(admitted.op, "n", asked.n)
        self._emit(OpStarted(span.key, admitted.op))
        began = perf_counter()
        result: ops.Result | None = None
        error: str | None = "cancelled"
        try:
            result = await self._perform(admitted.op, span)
            if not isinstance(result, kind):
                raise EngineError(f"the engine answered {type(result).__name__} to {type(asked).__name__}")
            if isinstance(result, ops.Generated):
                result = self._stamp(result, span, admitted)
            error = None
            return result
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
            raise
        finally:
            done = result if error is None else None
            self._settle(purse, admitted.op, span, done, error, began)

    def _stamp(self, result: ops.Generated, span: Span, admitted: Admitted) -> ops.Generated:
        """Mark where each draft comes from, and whether the budget cut it; remember answers."""
        drafts = tuple(
            replace(d, span=f"{span.key}[{i}]", clipped=admitted.clipped and d.finish == "length")
            for i, d in enumerate(result.drafts)
        )
        if isinstance(admitted.op, ops.Generate) and admitted.op.chat.answers:
            self.drafted += drafts
        return replace(result, drafts=drafts)

    def _settle(
        self, purse: Purse, op: ops.Op, span: Span, result: ops.Result | None, error: str | None, began: float
    ) -> None:
        """Charge the op, salvage its unfinished drafts, and tell the observers; runs for cancelled ops too."""
        usage = result.usage if result is not None else span.receipt.usage
        role = op.model if isinstance(op, ops.Generate | ops.Logprobs) else "judge"
        purse.charge(usage, role)
        self.unpriced |= purse.price(usage, role) is None
        self.phases[op.tag] = self.phases.get(op.tag, Usage()) + usage
        if result is None and isinstance(op, ops.Generate) and op.chat.answers:
            self.partials += span.receipt.partials()
        now = perf_counter()
        self._emit(OpDone(span.key, op, result, error, usage, began - self._began, now - began))

    def _emit(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)
