"""Spend n answers adaptively: either try afresh (wider) or improve an answer that looks promising (deeper).

Every node of a tree is a whole answer with a score in [0, 1]. To place the next one, Thompson sampling walks down from
the root: at each node a draw for "one more answer here", from the scores of its children, competes with a draw for "go
deeper", from the scores below them. An answer placed at the root is sampled afresh; below another answer it is a
refinement of that, with its score in view. Where refining pays, the tree grows deep; where it does not, it becomes
best-of-n. Served is the best-scored answer.

Paper: Inoue et al. 2025, Wider or Deeper? AB-MCTS (arXiv 2503.04412), variant A with Gaussian scores.
Cost: n generations and n scores, in n / batch rounds, one after the other.
Departures: answers of one round are placed before any of them is scored (as in the authors' ask_batch; more than 5 make
    the tree too wide). One model only. The refinement prompt is ours. A child's arm is its own score and all below it.
"""

from __future__ import annotations

from random import Random
from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.rank import Ballot, heat, shown
from strop.strategies.kit.span import mix
from strop.strategies.kit.tree import ROOT, add, depth, thompson


async def ab_mcts(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=128, description="answers to write")] = 12,
    by: Annotated[str, Field(min_length=1, description="scorer with values in [0, 1]")] = "judge",
    batch: Annotated[int, Field(ge=1, le=5, description="answers to write at once")] = 3,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the answers; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"ab_mcts writes n={n} answers, so it cannot fill {ctx.choices} choices", param="n")
    if question.prompt is not None:
        raise BadRequest("ab_mcts needs messages, not a raw prompt", param="prompt")
    hot = question.but(temperature=heat(question, temperature))
    tree, drafts = ROOT, [Draft("")]

    async def write(node: int) -> tuple[int, Draft]:
        chat = hot
        if node:
            score = tree[node].value
            known = "unknown" if score is None else f"{score:.2f}"
            chat = hot.followed_by(prompt(ctx, "ab_mcts/refine", candidate=shown(drafts[node]), score=known))
        return node, (await ctx.generate(chat))[0]

    while len(tree) <= n:
        random = Random(mix(ctx.seed or 0, f"ab_mcts {len(tree)}"))
        places = [thompson(tree, random) for _ in range(min(batch, n + 1 - len(tree)))]
        written = await ctx.map(write, places, name="write")
        if len(tree) == 1:
            ctx.keep(written[0][1])
        scores = await _scores(ctx, question, [draft for _, draft in written], by)
        for (place, draft), score in zip(written, scores, strict=True):
            tree, drafts = add(tree, place, score), [*drafts, draft]
            if draft.finish != "length":
                ctx.keep(draft, score)
    ballot = await Ballot.of(ctx, question, drafts[1:])
    order = ballot.by_score([node.value for node in tree[1:]], weighted=False)
    ctx.note(
        wide=len(tree[0].children),
        deep=max(depth(tree, node) for node in range(len(tree))),
        parents=[node.parent for node in tree[1:]],
        scores=[node.value for node in tree[1:]],
        chosen=order[0],
    )
    return [drafts[1 + i] for i in order]


async def _scores(ctx: Context, question: Chat, drafts: list[Draft], by: str) -> list[float | None]:
    scores = await ctx.score(question, drafts, by=by)
    if any(score is not None and not 0.0 <= score <= 1.0 for score in scores):
        raise BadRequest(f"ab_mcts needs scores in [0, 1]; '{by}' gave {scores}", param="by")
    return scores
