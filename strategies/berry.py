"""Search over whole answers: criticise and rewrite the promising ones, and rank all of them by comparing pairs.

Every node is a whole answer; its children are rewrites of it after a review in a fresh context. Every new answer is
compared with all earlier ones. Who beats whom is closed transitively, Borda counts rank all answers, and the quality
of an answer is local * the share of its tree neighbours that it beats + (1 - local) * its place in the ranking.
Qualities are passed up to parents; the next one to rewrite has the best quality + explore * sqrt(ln N / n). Served is
the answer that ranks first.

Paper: Zhang et al. 2024, LLaMA-Berry (arXiv 2410.02884), SR-MCTS with a pairwise preference model.
Cost: n generations, n - 1 critiques of at most 1024 tokens, and n (n - 1) / 2 comparisons of two answers (pairwise: 2
    judgements each). One rewrite after the other.
Departures: any scorer that compares takes the place of their preference model. Qualities are computed anew after each
    answer, since ranks change; their local part is read as a win rate. No ground truth ends the search, as it does in
    the code of the predecessor MCTSr. An answer that was never told from another beats nobody.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from strop.strategies.kit import Chat, Context, Draft, Sampling, prompt
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.preferences import qualities, ranking
from strop.strategies.kit.rank import Ballot, heat, shown
from strop.strategies.kit.tree import Node, Tree, add, depth, passed_up, with_room

CRITIC = Sampling(temperature=0.0, max_tokens=1024)


async def berry(
    ctx: Context,
    question: Chat,
    n: Annotated[int, Field(ge=1, le=32, description="answers to write, the first included")] = 8,
    by: Annotated[str, Field(min_length=1, description="scorer that compares two answers")] = "pairwise",
    children: Annotated[int, Field(ge=1, le=8, description="most rewrites of one answer")] = 2,
    local: Annotated[float, Field(ge=0, le=1, description="share of the tree neighbours in the quality")] = 0.1,
    explore: Annotated[float, Field(ge=0, le=10, description="weight of what was seldom rewritten")] = 1.4,
    back: Annotated[float, Field(ge=0, le=1, description="share of a child's quality that goes to its parent")] = 0.1,
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="of the answers; default: the request's if above 0, else 0.8")
    ] = None,
) -> list[Draft]:
    if ctx.choices > n:
        raise BadRequest(f"berry writes n={n} answers, so it cannot fill {ctx.choices} choices", param="n")
    if question.prompt is not None:
        raise BadRequest("berry needs messages, not a raw prompt", param="prompt")
    hot = question.but(temperature=heat(question, temperature))
    drafts = await ctx.generate(hot)
    tree: Tree = (Node(value=1.0),)
    preferences: dict[tuple[int, int], float] = {}
    order = [0]
    ctx.keep(drafts[0])
    while len(drafts) < n:
        parent = with_room(passed_up(tree, back), explore, children)
        new = await _rewritten(ctx, hot, drafts[parent])
        preferences |= await _compared(ctx, question, drafts, new, by)
        drafts, tree = [*drafts, new], add(tree, parent, None)
        near = [[*node.children, *([] if node.parent is None else [node.parent])] for node in tree]
        values = qualities(preferences, near, 1.0 - local)
        tree = tuple(replace(node, value=value) for node, value in zip(tree, values, strict=True))
        order = await _order(ctx, question, drafts, preferences)
        ctx.keep(drafts[order[0]])
        ctx.note(answer=len(drafts) - 1, parent=parent, best=order[0], qualities=values)
    ctx.note(deep=max(depth(tree, node) for node in range(len(tree))), chosen=order[0])
    return [drafts[i] for i in order]


async def _rewritten(ctx: Context, hot: Chat, draft: Draft) -> Draft:
    review = prompt(ctx, "berry/critique", question=hot.transcript(), candidate=shown(draft), sampling=CRITIC)
    [critique] = await ctx.generate(review)
    asked = prompt(ctx, "berry/rewrite", candidate=shown(draft), critique=critique.text)
    return (await ctx.generate(hot.followed_by(asked)))[0]


async def _compared(
    ctx: Context, question: Chat, old: list[Draft], new: Draft, by: str
) -> dict[tuple[int, int], float]:
    """How probably the new answer is better than each old one, both ways; nothing where the scorer could not tell."""

    async def against(i: int) -> tuple[int, list[float | None]]:
        return i, await ctx.score(question, [old[i], new], by=by)

    found: dict[tuple[int, int], float] = {}
    for i, (theirs, ours) in await ctx.map(against, range(len(old)), name="compare"):
        if theirs is not None and ours is not None:
            found[i, len(old)] = 0.5 if theirs == ours else float(theirs > ours)
            found[len(old), i] = 1.0 - found[i, len(old)]
    return found


async def _order(
    ctx: Context, question: Chat, drafts: list[Draft], preferences: dict[tuple[int, int], float]
) -> list[int]:
    """Places best first: whole answers of the right shape before others, each by rank."""
    flaws = (await Ballot.of(ctx, question, drafts)).flaws
    return sorted(ranking(preferences, len(drafts)), key=lambda i: flaws[i])
