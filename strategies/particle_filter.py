"""Sample the steps of n answers side by side and resample the answers by how promising they are.

Each of n particles is an answer in the making. After every step a process reward model scores the answers so far; a
particle's weight is the odds score / (1 - score). When few particles carry most of the weight, n new ones are drawn by
weight: good ones are doubled, bad ones die. Unlike beam search this keeps some that look worse, so it forgives a reward
model its mistakes. Ended answers take part with their last weight. Served is the answer with the highest weight, or
one drawn by weight. Scores must lie in [0, 1]. Tool calls and JSON are a single step.

Paper: Puri et al. 2025 (arXiv 2502.01618).
Cost: n generations of one step, at most max_steps times, and as many scores (equal texts once): about n answers.
Departures: systematic resampling in place of multinomial, and only when the effective number of particles is below
    ess * n (ess=1: after every step, as published); weights are those of the text so far, as published, not ratios of
    successive ones. The reference runs max_steps + 1 steps. No particle Gibbs, no annealing. A particle that could not
    be scored weighs as the mean of the others.
Requires: prefix
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.particles import effective, pick, systematic, weights
from strop.strategies.kit.rank import Ballot
from strop.strategies.kit.span import mix
from strop.strategies.kit.steps import How
from strop.strategies.kit.stepwise import Path, Stepper, keep_best


async def particle_filter(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=64, description="particles")] = 8,
    by: Annotated[
        str, Field(min_length=1, description="what scores the text so far: prm, or a scorer with values in [0, 1]")
    ] = "prm",
    aggregate: Annotated[How, Field(description="how process rewards of the steps make one score")] = "last",
    ess: Annotated[
        float, Field(ge=0, le=1, description="resample when the effective share of particles is below; 1: always")
    ] = 0.5,
    flatten: Annotated[float, Field(gt=0, le=100, description="temperature of the weights; above 1 kills fewer")] = 1.0,
    choose: Annotated[
        Literal["argmax", "sample"], Field(description="serve the heaviest answer, or one drawn by weight")
    ] = "argmax",
    max_steps: Annotated[int, Field(ge=1, le=256, description="most steps; the last one runs to the end")] = 40,
    step_tokens: Annotated[int, Field(ge=16, le=8192, description="most tokens of a step written in one go")] = 512,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the steps; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"particle_filter has n={n} particles, so it cannot fill {ctx.choices} choices", param="n")
    search = Stepper.of(ctx, question, temperature, by, aggregate, step_tokens)
    resampled = 0
    paths = await search.start(n, last=max_steps == 1)
    for step in range(1, max_steps + 1):
        keep_best(ctx, paths)
        paths = await search.scored(paths)
        keep_best(ctx, paths)
        shares = _shares(paths, flatten, by)
        ctx.note(step=step, scores=[path.score for path in paths], done=sum(path.over for path in paths))
        if all(path.over for path in paths):
            break
        copies = [1] * len(paths)
        if ess == 1 or effective(shares) < ess * len(paths):
            copies, resampled = systematic(shares, len(paths), _uniform(ctx, f"resample {step}")), resampled + 1
        paths = await search.grow(paths, copies, last=step + 1 == max_steps)
    ballot = await Ballot.of(ctx, question, [path.draft for path in paths])
    order = ballot.by_score([path.score for path in paths], weighted=False)
    if choose == "sample":
        best = [i for i in order if ballot.flaws[i] == ballot.flaws[order[0]]]
        drawn = best[pick(_shares([paths[i] for i in best], flatten, by), _uniform(ctx, "choose"))]
        order = [drawn, *(i for i in order if i != drawn)]
    ctx.note(steps=step, resampled=resampled, chosen=order[0])
    return [paths[i].draft for i in order]


def _shares(paths: list[Path], flatten: float, by: str) -> list[float]:
    try:
        return weights([path.score for path in paths], flatten)
    except ValueError as wrong:
        raise BadRequest(f"particle_filter cannot weigh by '{by}': {wrong}", param="by") from wrong


def _uniform(ctx: Context, name: str) -> float:
    """A number in [0, 1) that the request's seed decides."""
    return mix(ctx.seed or 0, f"particle_filter {name}") / 2**31
