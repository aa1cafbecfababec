"""Traces: lines that go to a log and come back, replay, and how a change is reported."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest

from strop.strategies import CATALOGUE
from strop.strategies.kit import Budget, Chat, Context, Draft, Request, catalogue, run
from strop.strategies.kit.errors import EngineError, EngineOverloaded, ReplayMismatch
from strop.strategies.kit.events import Bill, Finished, Kept, Noted, OpDone, Outcome, Started
from strop.strategies.kit.ops import Generate, Generated, Op, Scored, Stepped, Steps, Verified, Verify, Weighed
from strop.strategies.kit.span import Delta, Span
from strop.strategies.kit.trace import Line, Trace, difference, from_json, read, to_json
from strop.strategies.kit.types import (
    Format,
    Logprob,
    Message,
    Prefix,
    Sampling,
    Tokens,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
    Verdict,
)
from strop.strategies.testing import Replayed, Scripted, Simulated, replay

CHAT = Chat(
    (Message("system", "s"), Message("user", "ü\n"), Message("assistant", "", (ToolCall("1", "f", "{}"),))),
    Sampling(temperature=0.3, stop=("\n",), logit_bias=((5, -1.5),), stop_token_ids=(2,), seed=9),
    (Tool("f", "d", {"type": "object"}, True),),
    ToolChoice("named", "f"),
    False,
    Format("json_schema", "n", {"type": "object"}, True),
)
DRAFT = Draft(
    "a b", "length", (), Tokens((1, 2), ("a", " b"), (-0.1, float("-inf")), (0.5, 1e-9), (), (((1, "a", -0.1),), ())), 2
)
LINES: list[Line] = [
    Started("x", {"n": 3, "by": None}, CHAT, Budget(10, None, 0.5, 1e-3), 5, "f", 2),
    OpDone(
        "x#1", Generate(CHAT, 2, Prefix(DRAFT, "wait"), ("tokens",)), Generated((DRAFT,), Usage(1, 2, 3, 4, 5, 0.1))
    ),
    OpDone("x#2", Generate(replace(CHAT, prompt=(1, 2, 3))), None, "cancelled", Usage(completion=2), 0.1, 0.2),
    OpDone("x#3", Steps(CHAT, DRAFT), Stepped((0.1, 0.9), ("a", "b"))),
    OpDone("x#4", Verify(CHAT, (DRAFT,), "tests", {"code": "1"}), Verified((Verdict(None, "?"), Verdict(True)))),
    Kept("x", DRAFT, None),
    Noted("x", {"why": "because", "votes": [1, 2]}),
    Finished(Outcome((DRAFT,), "budget", "kept", None, Bill(Usage(), {"draft": Usage(1)}, 3, 1.5, None))),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: type(line).__name__)
def test_a_line_comes_back_from_the_log_as_it_was(line: Line) -> None:
    assert from_json(to_json(line)) == line


@pytest.mark.parametrize("result", [Scored((None, 0.1), ("n",)), Weighed((Logprob((-0.5,), (0.1,)),))])
def test_results_come_back_as_they_were(result: Any) -> None:
    line = OpDone("k", Generate(CHAT), result)
    assert from_json(to_json(line)) == line


def test_a_log_may_put_its_own_fields_beside_the_events() -> None:
    text = to_json(LINES[0], request_id="r1", at="now")
    assert json.loads(text)["request_id"] == "r1"
    assert read([text, "", "  \n"]) == [LINES[0]]


def test_the_first_differing_field_is_named() -> None:
    other = replace(CHAT, messages=(*CHAT.messages[:1], Message("user", "u"), *CHAT.messages[2:]))
    assert difference(Generate(CHAT), Generate(CHAT)) is None
    assert difference(Generate(CHAT), Generate(other)) == ("chat.messages[1].content", "ü\n", "u")
    assert difference(Generate(CHAT, n=2), Generate(CHAT)) == ("n", 2, 1)
    found = difference(Verify(CHAT, (), "tests", {"a": 1}), Verify(CHAT, (), "tests", {"a": 2}))
    assert found is not None
    assert found.field == "spec.a"


# ---- replay --------------------------------------------------------------------------------------------------------


async def branching(ctx: Context, question: Chat, width: int = 5) -> Draft:
    """Samples, compares and stops early.

    Paper: none.
    Cost: as much as it takes.
    Departures: none.
    """

    async def one(i: int) -> Draft:
        [draft] = await ctx.generate(question, max_tokens=20 + i)
        ctx.keep(draft)
        [again] = await ctx.generate(question.then(draft.message, tag="again"))
        return again

    drafts = await ctx.map(one, range(width))
    scores = await ctx.score(question, drafts)
    found = await ctx.map(lambda _: ctx.generate(question), range(6), until=lambda results: len(results) == 2)
    ctx.note(scores=scores)
    return max(zip(scores, [*drafts[:-1], found[-1][0]], strict=True), key=lambda pair: pair[0] or 0.0)[1]


KNOWN = catalogue(branching, CATALOGUE["direct"].body)


class Uneven:
    """A simulated engine in which later branches are slower, so `until` really cancels calls in flight."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, op: Op, span: Span) -> Any:
        place = span.key.partition("[")[2].partition("]")[0]
        await anyio.sleep(0.001 * int(place or 0))
        return await self.inner(op, span)


async def record(name: str, engine: Any, ask: Any, **request: Any) -> list[Line]:
    trace = Trace()
    asked = Request(KNOWN[name], ask("What is 40 + 2?"), fence="fence", **request)
    with suppress(EngineError):
        await run(asked, engine, observe=[trace])
    return read(to_json(line) for line in trace.lines)


async def test_replay_is_exact_in_any_order_and_at_any_speed(ask: Any) -> None:
    lines = await record("branching", Uneven(Simulated()), ask, seed=4)
    assert any(line.kind == "op" and line.error == "cancelled" for line in lines)
    recorded = lines[-1]
    assert isinstance(recorded, Finished)
    for turn in range(6):
        shuffled = [lines[0], *random.Random(turn).sample(lines[1:-1], len(lines) - 2), lines[-1]]
        outcome = await replay(shuffled, KNOWN, jitter=0.003, seed=turn)
        assert outcome.answers == recorded.outcome.answers
        assert outcome.bill.total == recorded.outcome.bill.total


async def test_a_changed_prompt_is_reported_by_field(ask: Any) -> None:
    lines = await record("direct", Scripted({"draft": ["a"]}), ask)
    started = lines[0]
    assert isinstance(started, Started)
    changed = replace(started, question=ask("What is 40 + 3?"))
    with pytest.raises(ReplayMismatch, match=r"direct#1: chat.messages\[0\].content was 'What is 40 \+ 2\?'"):
        await replay([changed, *lines[1:]], KNOWN)


async def test_a_changed_knob_is_reported_even_when_a_draft_was_kept(ask: Any) -> None:
    lines = await record("branching", Simulated(), ask, seed=4)
    started = lines[0]
    assert isinstance(started, Started)
    with pytest.raises(ReplayMismatch, match=r"nothing was recorded at branching/1.map\[5\]#1, where 'draft' is asked"):
        await replay([replace(started, knobs={"width": 6}), *lines[1:]], KNOWN)


async def test_a_recorded_call_that_is_no_longer_made_fails(ask: Any) -> None:
    lines = await record("direct", Scripted({"draft": ["a"]}), ask)
    call = next(line for line in lines if isinstance(line, OpDone))
    with pytest.raises(ReplayMismatch, match="recorded but never asked for: direct#2"):
        await replay([*lines, replace(call, key="direct#2")], KNOWN)


async def test_another_outcome_is_reported(ask: Any) -> None:
    lines = await record("direct", Scripted({"draft": ["a"]}), ask)
    finished = lines[-1]
    assert isinstance(finished, Finished)
    other = replace(finished, outcome=replace(finished.outcome, stopped="budget"))
    with pytest.raises(ReplayMismatch, match=r"outcome\.stopped was 'budget' when recorded and is 'done' now"):
        await replay([*lines[:-1], other], KNOWN)


async def test_a_run_cut_by_the_budget_replays(ask: Any) -> None:
    for budget in (Budget(tokens=90), Budget(calls=7)):
        lines = await record("branching", Uneven(Simulated()), ask, budget=budget)
        assert (await replay(lines, KNOWN, jitter=0.002)).stopped == "budget"


async def test_a_run_that_met_its_deadline_replays_without_waiting_for_it(ask: Any) -> None:
    engine = Simulated(length=3000, pace=0.001)
    lines = await record("branching", engine, ask, budget=Budget(seconds=0.3))
    lines[0] = replace(lines[0], budget=Budget(seconds=600.0))  # type: ignore[type-var]
    with anyio.fail_after(5):
        outcome = await replay(lines, KNOWN, jitter=0.002)
    assert (outcome.stopped, outcome.degraded) == ("deadline", "kept")


async def test_a_partial_answer_replays(ask: Any) -> None:
    lines = await record("direct", Simulated(length=3000, pace=0.001), ask, budget=Budget(seconds=0.1))
    outcome = await replay(lines, KNOWN)
    assert (outcome.stopped, outcome.degraded) == ("deadline", "partial")
    assert outcome.answers[0].text


async def test_a_request_whose_client_left_replays(ask: Any) -> None:
    trace = Trace()
    with anyio.move_on_after(0.05):
        request = Request(KNOWN["branching"], ask("What is 40 + 2?"), fence="fence")
        await run(request, Simulated(length=3000, pace=0.001), observe=[trace])
    lines = read(to_json(line) for line in trace.lines)
    assert (await replay(lines, KNOWN)).stopped == "gone"


@pytest.mark.parametrize("failure", [EngineError("out of memory"), EngineOverloaded("try later")])
async def test_a_recorded_failure_happens_again(ask: Any, failure: Exception) -> None:
    lines = await record("direct", Scripted({"draft": [failure]}), ask)
    engine = Replayed(lines)
    op = next(line.op for line in lines if isinstance(line, OpDone))
    with pytest.raises(type(failure), match=str(failure)):
        await engine(op, Span("direct#1"))
    assert (await replay(lines, KNOWN)).error == f"{type(failure).__name__}: {failure}"


async def test_recorded_words_are_sent_live(ask: Any) -> None:
    lines = await record("direct", Scripted({"draft": ["one two"]}), ask)
    op = next(line.op for line in lines if isinstance(line, OpDone))
    heard: list[Delta] = []
    await Replayed(lines)(op, Span("direct#1", live=heard.append))
    assert "".join(delta.text for delta in heard) == "one two"


async def test_a_recording_without_an_end_is_refused(ask: Any) -> None:
    lines = await record("direct", Scripted({"draft": ["a"]}), ask)
    with pytest.raises(ReplayMismatch, match="needs its first line"):
        await replay(lines[:-1], KNOWN)
