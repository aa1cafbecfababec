"""Best-of-n that gives up early on answers that begin badly.

n answers are written side by side. When they have first, 2 * first, 4 * first, ... tokens, a scorer looks at what
there is, and the share `reject` with the lowest scores is abandoned, ended or not, until few are left; those are
written to their end, scored once more, and the best is served. So many more answers can be tried than best-of-n could
pay for. It needs a scorer that can tell early how an answer will end. Tool calls and JSON are judged whole.

Paper: Sun et al. 2024, Speculative Rejection (arXiv 2410.20290).
Cost: n * first tokens, then between checkpoints what is left times the tokens to the next one: with reject=0.5 and r
    rejections n * first * (1 + (r - 1) / 2) tokens, and the rest of the survivors' answers (n=16: twice n * first, and
    the rest of 2). Scores: at every checkpoint one for each answer that has grown.
Departures: the paper rejects when the memory of the accelerator is full; here at lengths that double, so the result
    does not depend on the machine. At least `survivors` are kept, at least one is abandoned each time. No top-k of 50.
Requires: prefix
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.rank import Ballot, heat
from strop.strategies.kit.stepwise import Path, Stepper, best_first, keep_best


async def speculative_rejection(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=2, le=256, description="answers to start")] = 16,
    by: Annotated[
        str, Field(min_length=1, description="what scores the text so far: judge, prm, or a registered outcome scorer")
    ] = "judge",
    first: Annotated[int, Field(ge=16, le=8192, description="tokens before the first rejection")] = 64,
    reject: Annotated[float, Field(gt=0, lt=1, description="share to abandon at each checkpoint")] = 0.5,
    survivors: Annotated[int, Field(ge=1, le=64, description="answers never abandoned")] = 2,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the answers; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    least = max(survivors, ctx.choices)
    if ctx.choices > n:
        raise BadRequest(f"speculative_rejection has n={n} answers, not enough for {ctx.choices} choices", param="n")
    hot = question.but(temperature=heat(question, temperature))
    race = Stepper(ctx, hot, by=by, step_tokens=first, pause="")
    paths, length, rejections = await race.start(n, last=n <= least), first, 0
    while True:
        keep_best(ctx, paths)
        paths = best_first(await race.scored(paths))
        keep_best(ctx, paths)
        ctx.note(checkpoint=length, scores=[path.score for path in paths], ended=sum(path.over for path in paths))
        if all(path.over for path in paths):
            break
        if len(paths) > least:
            paths = _sound_first(paths)[: max(least, min(len(paths) - 1, round((1 - reject) * len(paths))))]
            rejections += 1
        race = replace(race, step_tokens=length)
        length *= 2
        paths = await race.grow(paths, [1] * len(paths), last=len(paths) <= least)
    ballot = await Ballot.of(ctx, question, [path.draft for path in paths])
    order = ballot.by_score([path.score for path in paths], weighted=False)
    ctx.note(rejections=rejections, survivors=len(paths), chosen=order[0])
    return [paths[i].draft for i in order]


def _sound_first(paths: list[Path]) -> list[Path]:
    """The same order, but answers that a limit cut off come last: they can never be whole."""
    return sorted(paths, key=lambda path: path.over and not path.finished)
