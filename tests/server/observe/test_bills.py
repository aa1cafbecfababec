"""The identity of tokens: what the metrics add up is the bill, and the bill is what the engine counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from strop.strategies.kit import Budget, Chat, Context, Draft, Request, run
from strop.strategies.kit.errors import EngineError
from strop.strategies.kit.events import Event, Finished, Outcome


async def judged(ctx: Context, question: Chat, n: int = 3) -> Draft:
    """Drafts, a critique, scores, the last one wins."""
    drafts = await ctx.generate(question, n=n)
    ctx.keep(drafts[0])
    await ctx.generate(Chat(question.messages, tag="critique", answers=False))
    scores = await ctx.score(question, drafts)
    return max(zip(scores, drafts, strict=True), key=lambda pair: pair[0] or 0.0)[1]


async def branching(ctx: Context, question: Chat, n: int = 4) -> list[Draft]:
    """One branch per draft; ranked."""

    async def one(_: int) -> Draft:
        (draft,) = await ctx.generate(question)
        return draft

    return await ctx.map(one, range(n))


class Case:
    """One run, watched."""

    def __init__(self, page: Any, meter: Any, asking: Any, strategy: Any) -> None:
        self.page, self.meter, self.strategy = page, meter, strategy
        self.observer = page.metrics.observer(asking(strategy=strategy))
        self.outcomes: list[Outcome] = []

    async def run(self, choices: int = 1, **budget: Any) -> None:
        request = Request(self.strategy, Chat(), budget=Budget(**budget), choices=choices)
        await run(request, self.meter, observe=[self.observer, self._outcome])

    def _outcome(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.outcomes.append(event.outcome)

    def check(self, stopped: str) -> dict[str, int]:
        """Everything adds up; returns the tokens by type."""
        (outcome,) = self.outcomes
        bill, tokens = outcome.bill, self.page.tokens()
        assert outcome.stopped == stopped
        assert bill.total == self.meter.counted
        assert tokens["completion"] + tokens["refinement"] + tokens["judge"] == bill.total.completion
        assert tokens["completion"] == sum(answer.n_tokens for answer in outcome.answers)
        assert tokens["refinement"] + tokens["judge"] == bill.discarded
        assert (tokens["prompt"], tokens["prompt_cached"]) == (bill.total.prompt, bill.total.cached)
        assert self.page.value("strop_phase_tokens_total") == bill.total.completion
        assert self.page.value("strop_engine_calls_per_request_sum") == bill.total.calls
        assert self.page.value("strop_gpu_seconds_total") == pytest.approx(bill.total.seconds)
        assert self.page.value("strop_stop_reasons_total", reason=stopped) == 1
        assert self.page.value("strop_requests_in_flight") == 0
        return dict(tokens)


@pytest.fixture
def case(page: Any, meter: Any, asking: Any, as_strategy: Any) -> Callable[..., Case]:
    def made(body: Any = judged, *, ranked: bool = False, **engine: Any) -> Case:
        return Case(page, meter(**engine), asking, as_strategy(body, ranked=ranked))

    return made


async def test_a_finished_run_is_split_into_served_refinement_and_judge(case: Any) -> None:
    done = case()
    await done.run()
    assert done.check("done") == {
        "prompt": 70,
        "prompt_cached": 28,
        "injected": 0,
        "completion": 5,
        "refinement": 15,
        "judge": 9,
    }


async def test_several_choices_are_all_served_tokens(case: Any) -> None:
    done = case(branching, ranked=True)
    await done.run(choices=3)
    tokens = done.check("done")
    assert (tokens["completion"], tokens["refinement"]) == (15, 5)


async def test_a_run_that_the_budget_ends_adds_up(case: Any) -> None:
    cut = case()
    await cut.run(tokens=17)
    assert cut.check("budget")["completion"] == 5


async def test_a_run_that_the_deadline_ends_adds_up(case: Any) -> None:
    late = case(tick=0.02)
    await late.run(seconds=0.15)
    tokens = late.check("deadline")
    assert tokens["completion"] == 5
    assert tokens["refinement"] > 10


async def test_a_run_whose_client_leaves_adds_up(case: Any) -> None:
    left = case(tick=0.01)
    with anyio.move_on_after(0.035):
        await left.run()
    tokens = left.check("gone")
    assert tokens["completion"] == 0
    assert tokens["refinement"] > 0


async def test_a_run_whose_engine_fails_but_has_a_draft_adds_up(case: Any) -> None:
    failed = case(fails_after=2)
    await failed.run()
    tokens = failed.check("error")
    assert (tokens["completion"], tokens["judge"]) == (5, 2)


async def test_a_run_that_fails_with_nothing_to_serve_adds_up(case: Any) -> None:
    failed = case(branching, fails_after=0, fails_at=0)
    with pytest.raises(EngineError):
        await failed.run()
    assert failed.outcomes[0].answers == ()
    assert failed.check("error")["prompt"] > 0


async def test_many_runs_together_are_the_sum_of_their_bills(
    page: Any, meter: Any, asking: Any, as_strategy: Any
) -> None:
    cases = [Case(page, meter(), asking, as_strategy(judged)) for _ in range(20)]
    async with anyio.create_task_group() as group:
        for each in cases:
            group.start_soon(each.run)
    bills = [each.outcomes[0].bill for each in cases]
    tokens = page.tokens()
    assert tokens["completion"] + tokens["refinement"] + tokens["judge"] == sum(b.total.completion for b in bills)
    assert tokens["prompt"] == sum(b.total.prompt for b in bills)
