"""Start n answers at once and serve what the m shortest of them say; the others are never written to their end.

Among answers of one reasoning model to one question, short ones are right more often: a long chain of thought is a sign
of trouble. All n answers are written side by side, a stretch of tokens at a time; at the first checkpoint where m have
ended with an answer that can be read, the rest are abandoned. With m = 1 the shortest is served, with larger m the
answer that most of the m shortest give. Cut-off answers, and answers that cannot be read, do not count until nothing
else is left. Which answers are shortest is counted in tokens, so the result does not depend on timing.

Paper: Agarwal et al. 2025, First Finish Search (arXiv 2505.18149); Hassid et al. 2025, short-m@k (arXiv 2505.17813).
Cost: n generations up to the first checkpoint at which m answers have ended, so at most n * (L + stretch) tokens if the
    m-th shortest answer has L tokens, and one call per answer and stretch over a cached prefix.
Departures: the papers stop at the moment of the m-th end, which depends on timing; here ends are seen at checkpoints
    every `stretch` tokens, and length stands for time. Only readable answers count.
Requires: prefix
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.rank import Ballot, answer_key, heat
from strop.strategies.kit.stepwise import Path, Stepper


async def first_finish(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=64, description="answers to start")] = 8,
    m: Annotated[int, Field(ge=1, le=64, description="ended answers to wait for; more than n means n")] = 1,
    stretch: Annotated[int, Field(ge=16, le=65536, description="tokens from one checkpoint to the next")] = 256,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the answers; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"first_finish starts n={n} answers, so it cannot fill {ctx.choices} choices", param="n")
    hot = question.but(temperature=heat(question, temperature))
    race = Stepper(ctx, hot, step_tokens=stretch, pause="")
    paths = _shortest_first(await race.start(n))
    checkpoints = 1
    while True:
        ended = [path.draft for path in paths if path.finished and answer_key(question, path.draft) is not None]
        ctx.keep(ended[0] if ended else max(paths, key=lambda path: path.draft.n_tokens).servable)
        if len(ended) >= m or all(path.over for path in paths):
            break
        paths = _shortest_first(await race.grow(paths, [1] * len(paths)))
        checkpoints += 1
    voters = ended[:m] or [path.servable for path in paths]
    ballot = await Ballot.of(ctx, question, voters)
    order = ballot.by_votes() if m > 1 else sorted(range(len(voters)), key=lambda i: ballot.flaws[i])
    ctx.note(checkpoints=checkpoints, ended=len(ended), lengths=[path.draft.n_tokens for path in paths])
    rest = [path.servable for path in paths if path.servable not in voters]
    return [*(voters[i] for i in order), *rest]


def _shortest_first(paths: list[Path]) -> list[Path]:
    """Ended paths before the others, each by length; equal ones keep their order."""
    return sorted(paths, key=lambda path: (not path.finished, path.draft.n_tokens))
