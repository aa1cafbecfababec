"""Chain: an engine whose answers are chains of right and wrong steps, for the laws of step search."""

from __future__ import annotations

from anyio.lowlevel import checkpoint

from strop.strategies.kit.ops import Generate, Generated, Op, Result, Score, Scored, Stepped, Steps, Verified, Verify
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Draft, Prefix, Usage, Verdict
from strop.strategies.testing.brain import unit
from strop.strategies.testing.words import continued, count_prompt, tokens_of

BREAK = "\n\n"


class Chain:
    """A `Perform` that answers in `depth` steps of three words, each right with probability `skill` on its own.

    The answer is right if all of its steps are. Process rewards and scores are `sure` as long as every step is right
    and 1 - `sure` from the first wrong one on; with probability 1 - `taste`, on its own for each text and step, a
    reward says the opposite. Steps are divided by blank lines; `stop` and prefixes are honoured, lengths are not.
    Draws depend on `seed`, the op's place and the draft's index.
    """

    def __init__(self, depth: int, skill: float, taste: float = 1.0, *, sure: float = 0.999, seed: int = 0) -> None:
        self.depth, self.skill, self.taste, self.sure, self.seed = depth, skill, taste, sure, seed
        self.asked: list[Op] = []

    async def __call__(self, op: Op, span: Span) -> Result:
        self.asked.append(op)
        await checkpoint()
        match op:
            case Generate():
                result: Result = self._generate(op, span)
            case Steps():
                result = Stepped(self.rewards(op.draft.text), tuple(op.draft.text.split(BREAK)), Usage(1))
            case Score():
                result = Scored(tuple(self.rewards(draft.text)[-1] for draft in op.drafts), (), Usage(1))
            case Verify():
                return Verified(tuple(Verdict(None) for _ in op.drafts))
            case _:
                raise NotImplementedError(op.kind)
        span.receipt.own = result.usage
        return result

    def rewards(self, text: str) -> tuple[float, ...]:
        """One reward per step of a text."""
        steps = [step for step in text.split(BREAK) if step]
        good = ["wrong" not in BREAK.join(steps[: i + 1]) for i in range(len(steps))]
        told = [g == (unit(self.seed, "reward", text, i) < self.taste) for i, g in enumerate(good)]
        return tuple(self.sure if fine else 1 - self.sure for fine in told)

    def is_right(self, text: str) -> bool:
        """Whether a finished text answers rightly."""
        return "\\boxed{1}" in text

    def _generate(self, op: Generate, span: Span) -> Generated:
        before = op.prefix.draft.n_tokens if op.prefix else 0
        drafts = tuple(self._draft(op, f"{span.key}:{span.seed}:{i}") for i in range(op.n))
        inserted = drafts[0].n_injected - (op.prefix.draft.n_injected if op.prefix else 0)
        new = sum(draft.n_tokens - before - inserted for draft in drafts)
        return Generated(drafts, Usage(count_prompt(op.chat) + before, 0, new, inserted, op.n))

    def _draft(self, op: Generate, key: str) -> Draft:
        prefix = op.prefix or Prefix(Draft(""))
        text = prefix.draft.text + prefix.inject
        count = len([step for step in text.split(BREAK) if step])
        new: list[str] = []
        while count + len(new) < self.depth and not (new and BREAK in op.chat.sampling.stop):
            place = count + len(new)
            fine = unit(self.seed, op.chat.question, place, key) < self.skill
            new.append(f"{'right' if fine else 'wrong'} {place} {unit('name', self.seed, place, key)}")
        ended = count + len(new) >= self.depth
        if ended:
            new[-1] += f" \\boxed{{{int('wrong' not in text + ''.join(new))}}}"
        tokens = tokens_of(BREAK.join(new))
        added = Draft(BREAK.join(new), "stop", (), tokens, len(tokens), stop_reason=None if ended else BREAK)
        return continued(op.prefix, added) if op.prefix else added
