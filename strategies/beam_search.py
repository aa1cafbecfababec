"""Search over the steps of an answer: write n next steps, keep the most promising n / width, go on from those.

A step ends at a blank line. After each, a process reward model scores the answers so far (or another scorer is shown
them); the best are kept, equal texts once, and each gets several next steps, so that n are written every time. Answers
that the model ends are set aside; the search stops at n of them and serves the best-scored. A step that is cut off by
its token limit is not an end: it goes on as the next step. Answers by tool call or in JSON are a single step, so the
search is then best-of-n. A client's max_tokens bounds the whole answer.

Paper: Snell et al. 2024 (arXiv 2408.03314), as set up in Hugging Face's search-and-learn (Beeching et al. 2024).
Cost: n generations of one step, at most max_steps times, and what the scorer takes for n drafts each time; equal texts
    are scored once. In tokens about n answers, for the pruned steps in place of pruned answers.
Departures: the search stops at n finished answers, of which the reference also serves the first n; it takes a step cut
    off by its limit for a finished answer, which this does not. strop puts the blank line back, so its tokens count as
    injected. No lookahead.
Requires: prefix
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.rank import Ballot
from strop.strategies.kit.steps import How
from strop.strategies.kit.stepwise import Path, Stepper, best_first, distinct, keep_best, spread


async def beam_search(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=64, description="steps to write each time")] = 4,
    width: Annotated[int, Field(ge=1, le=64, description="next steps per kept beam: n / width beams are kept")] = 4,
    by: Annotated[
        str, Field(min_length=1, description="what scores the text so far: prm, or an outcome scorer such as judge")
    ] = "prm",
    aggregate: Annotated[How, Field(description="how process rewards of the steps make one score")] = "last",
    max_steps: Annotated[int, Field(ge=1, le=256, description="most steps; the last one runs to the end")] = 40,
    step_tokens: Annotated[int, Field(ge=16, le=8192, description="most tokens of a step written in one go")] = 512,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the steps; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"beam_search ends with n={n} answers, so it cannot fill {ctx.choices} choices", param="n")
    search = Stepper.of(ctx, question, temperature, by, aggregate, step_tokens)
    done: list[Path] = []
    paths = await search.start(n, last=max_steps == 1)
    for step in range(1, max_steps + 1):
        keep_best(ctx, [*done, *paths])
        paths = await search.scored(paths)
        done += [path for path in paths if path.over]
        keep_best(ctx, [*paths, *done])
        kept = best_first(distinct([path for path in paths if not path.over]))[: max(1, n // width)]
        ctx.note(step=step, scores=[path.score for path in paths], done=len(done))
        if not kept or len(done) >= n:
            break
        paths = await search.grow(kept, spread(n, len(kept)), last=step + 1 == max_steps)
    ballot = await Ballot.of(ctx, question, [path.draft for path in done])
    order = ballot.by_score([path.score for path in done], weighted=False)
    ctx.note(steps=step, finished=sum(path.finished for path in done), chosen=order[0])
    return [done[i].draft for i in order]
