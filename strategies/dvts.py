"""Several independent step searches side by side, each greedy, and a vote among where they end.

n / width trees; each writes `width` next steps at a time, a process reward model scores the answers so far, and the
tree goes on from its best one only, until that one is an ended answer. Trees never mix, so early favourites of the
reward model cannot take over all of them, as they can in beam search at large n. The ended answers of all trees compete
at the end, by default with the scores of equal answers added up. Tool calls and JSON are a single step.

Paper: Beeching et al. 2024, Diverse Verifier Tree Search (Hugging Face, search-and-learn); Snell et al. 2024
    (arXiv 2408.03314) for searching with process rewards.
Cost: n generations of one step, at most max_steps times, and as many scores (equal texts once), fewer as trees end.
Departures: a tree's answers are those of its last steps that ended; the reference also counts unfinished ones. A step
    cut off by its limit goes on as the next step. No lookahead.
Requires: prefix
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.rank import Ballot
from strop.strategies.kit.steps import How
from strop.strategies.kit.stepwise import Path, Stepper, best_first, keep_best, rooted


async def dvts(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=64, description="steps to write each time, over all trees")] = 8,
    width: Annotated[int, Field(ge=1, le=64, description="next steps per tree: there are n / width trees")] = 4,
    by: Annotated[
        str, Field(min_length=1, description="what scores the text so far: prm, or an outcome scorer such as judge")
    ] = "prm",
    aggregate: Annotated[How, Field(description="how process rewards of the steps make one score")] = "last",
    weighted: Annotated[bool, Field(description="add up the scores of answers that are the same")] = True,
    max_steps: Annotated[int, Field(ge=1, le=256, description="most steps; the last one runs to the end")] = 40,
    step_tokens: Annotated[int, Field(ge=16, le=8192, description="most tokens of a step written in one go")] = 512,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the steps; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    trees = max(1, n // width)
    if ctx.choices > n:
        raise BadRequest(f"dvts ends with at most n={n} answers, so it cannot fill {ctx.choices} choices", param="n")
    search = Stepper.of(ctx, question, temperature, by, aggregate, step_tokens)
    ended: list[Path] = []
    spare: list[Path] = []
    paths = rooted(await search.start(n, last=max_steps == 1), trees)
    for step in range(1, max_steps + 1):
        keep_best(ctx, [*ended, *paths])
        paths = await search.scored(paths)
        growing: list[Path] = []
        for root in sorted({path.root for path in paths}):
            best, *rest = best_first([path for path in paths if path.root == root])
            if best.over:
                ended += [best, *(path for path in rest if path.over)]
                spare += [path for path in rest if not path.over]
            else:
                growing.append(best)
        keep_best(ctx, [*paths, *ended])
        ctx.note(step=step, scores=[path.score for path in paths], growing=len(growing))
        if not growing:
            break
        copies = [len([path for path in paths if path.root == best.root]) for best in growing]
        paths = await search.grow(growing, copies, last=step + 1 == max_steps)
    ballot = await Ballot.of(ctx, question, [path.draft for path in ended])
    order = ballot.by_score([path.score for path in ended], weighted=weighted)
    ctx.note(steps=step, ended=len(ended), groups=ballot.groups, chosen=order[0])
    return [*(ended[i].draft for i in order), *(path.servable for path in best_first(spare))]
