"""Monte Carlo tree search over the steps of an answer, led by the values that a process reward model gives them.

A node is an answer so far. Each iteration walks down to the leaf with the best value + explore * sqrt(2 ln N / n),
writes `width` next steps there, and scores them; from the best one a greedy look ahead of `rollout` steps is written,
and the highest value met corrects its own: (1 - mix) * value + mix * highest. Values are averaged upwards by visits.
The search stops at an ended answer with a value of `gate` or after `iterations`; served is the ended answer with the
best value. If none has ended, the most promising one is written to its end. Tool calls and JSON are a single step.

Paper: Zhang et al. 2024, ReST-MCTS* (arXiv 2406.03816): the search, not the self-training.
Cost: per iteration at most width + rollout generations of one step, and as many scores; and one more generation if no
    answer has ended. Iterations come one after the other.
Departures: the model is not asked whether a text is an end: it ends when the model ends it. Answers that end in a look
    ahead compete too. Ended nodes are closed, and so are nodes with nothing open below. Ties go to the first child, not
    to a random one.
Requires: prefix
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft
from strop.strategies.kit.rank import Ballot
from strop.strategies.kit.steps import How
from strop.strategies.kit.stepwise import Path, Stepper, best_first, distinct, keep_best
from strop.strategies.kit.tree import ROOT, add, averaged, best_uct, changed, depth


async def mcts(
    ctx: Context,
    question: Chat,
    iterations: Annotated[int, Field(ge=1, le=256, description="nodes to expand at most")] = 16,
    width: Annotated[int, Field(ge=1, le=16, description="next steps per expanded node")] = 3,
    by: Annotated[
        str, Field(min_length=1, description="what values the text so far: prm, or a scorer with values in [0, 1]")
    ] = "prm",
    aggregate: Annotated[How, Field(description="how process rewards of the steps make one value")] = "last",
    explore: Annotated[float, Field(ge=0, le=10, description="weight of what was seldom visited")] = 0.7,
    rollout: Annotated[int, Field(ge=0, le=16, description="steps to look ahead from the best new one")] = 3,
    mix: Annotated[float, Field(ge=0, le=1, description="share of the highest value met in the look-ahead")] = 0.5,
    gate: Annotated[float, Field(ge=0, le=1, description="value of an ended answer that ends the search")] = 0.9,
    max_steps: Annotated[int, Field(ge=1, le=256, description="most steps; the last one runs to the end")] = 40,
    step_tokens: Annotated[int, Field(ge=16, le=8192, description="most tokens of a step written in one go")] = 512,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the steps; default: the request's if above 0, else 0.8")
    ] = None,
) -> Draft:
    search = Stepper.of(ctx, question, temperature, by, aggregate, step_tokens)
    greedy = replace(search, question=question.but(temperature=0.0))
    tree, paths, ended = ROOT, [Path(Draft(""))], list[Path]()
    done = 0
    while done < iterations and (node := best_uct(tree, explore)) is not None:
        last = depth(tree, node) + 1 >= max_steps
        new = await (search.grow([paths[node]], [width], last=last) if node else search.start(width, last=last))
        keep_best(ctx, [*ended, *new])
        new = await search.scored(distinct(new))
        first = len(tree)
        for path in new:
            tree, paths = add(tree, node, path.score, closed=path.over), [*paths, path]
        ahead = best_first([path for path in new if not path.over])[:1]
        seen = await _look_ahead(greedy, ahead, rollout)
        values = [path.score for path in (*ahead, *seen) if path.score is not None]
        if seen and values:
            own = ahead[0].score if ahead[0].score is not None else max(values)
            best = first + new.index(ahead[0])
            tree = changed(tree, best, value=(1 - mix) * own + mix * max(values))
        tree = averaged(tree, first)
        ended += [path for path in (*new, *seen) if path.over]
        keep_best(ctx, ended or best_first(paths[1:]))
        done += 1
        ctx.note(iteration=done, node=node, values=[path.score for path in new], ahead=[path.score for path in seen])
        if any(path.finished and path.score is not None and path.score >= gate for path in ended):
            break
    if not any(path.finished for path in ended):
        open_ones = [path for path in paths[1:] if not path.over]
        ended += await search.scored(await search.grow(best_first(open_ones)[:1], [1], last=True)) if open_ones else []
    ballot = await Ballot.of(ctx, question, [path.draft for path in ended])
    chosen = ballot.by_score([path.score for path in ended], weighted=False)[0]
    ctx.note(iterations=done, nodes=len(tree) - 1, ended=len(ended), value=ended[chosen].score)
    return ended[chosen].draft


async def _look_ahead(greedy: Stepper, paths: list[Path], steps: int) -> list[Path]:
    """The likeliest next steps of at most one path, one after the other, each scored."""
    seen: list[Path] = []
    for _ in range(steps):
        if not paths or paths[0].over:
            break
        paths = await greedy.scored(await greedy.grow(paths, [1]))
        seen += paths
    return seen
