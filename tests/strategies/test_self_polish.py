"""Self-polish: rewritten questions, agreement, the gate, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, Message, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.testing import Gated, Scripted
from strop.strategies.testing.forms import Clerk


def boxed(*answers: int) -> list[str]:
    return [f"\\boxed{{{answer}}}" for answer in answers]


async def test_the_loop_ends_when_two_answers_in_a_row_agree(serve: Any) -> None:
    engine = Scripted({"draft": boxed(5), "rewrite": ["q1", "q2"], "reworded": boxed(4, 4), "pairwise": [[0, 1]]})
    served = await serve("self_polish", engine, rounds=8)
    assert served.texts == ["\\boxed{4}"]
    assert engine.tags == ["draft", "rewrite", "reworded", "rewrite", "reworded", "pairwise"]
    assert served.notes["stopped"] == "two answers agree"


async def test_an_original_answer_that_is_confirmed_needs_no_gate(serve: Any) -> None:
    engine = Scripted({"draft": ["so \\boxed{5}"], "rewrite": ["q1"], "reworded": boxed(5)})
    assert (await serve("self_polish", engine)).texts == ["so \\boxed{5}"]


async def test_only_the_last_user_turn_is_rewritten_and_each_rewriting_starts_from_the_last(
    serve: Any, ask: Any
) -> None:
    turns = (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Yes?"),
        Message("user", "2+2"),
    )
    question = replace(ask(max_tokens=30), messages=turns)
    engine = Scripted({"draft": boxed(1), "rewrite": ["q1", "q2"], "reworded": boxed(2, 3)})
    await serve("self_polish", engine, question, rounds=2, gate="none")
    assert "<question fence>\n2+2\n</question fence>" in engine.asked[1].chat.messages[-1].content
    assert "<question fence>\nq1\n</question fence>" in engine.asked[3].chat.messages[-1].content
    reworded = engine.asked[2].chat
    assert reworded.messages == (*turns[:3], Message("user", "q1"))
    assert (reworded.sampling.max_tokens, reworded.answers) == (30, True)


@pytest.mark.parametrize("values", [[0.5, 0.5], [1, 0], [None, 1], [0, None]])
async def test_the_original_answer_stays_on_a_tie_and_without_a_score(serve: Any, ask: Any, values: list[Any]) -> None:
    engine = Scripted({"draft": boxed(5), "rewrite": ["q1", "q2"], "reworded": boxed(4, 4), "judge": [values]})
    assert (await serve("self_polish", engine, gate="judge")).texts == ["\\boxed{5}"]
    assert engine.asked[-1].chat == ask()


async def test_without_agreement_the_majority_decides_and_the_original_in_a_tie(serve: Any) -> None:
    script = {"rewrite": ["q1", "q2", "q3"], "draft": boxed(1)}
    served = await serve("self_polish", Scripted(script | {"reworded": boxed(2, 1, 2)}))
    assert served.texts == ["\\boxed{1}"]
    served = await serve("self_polish", Scripted(script | {"reworded": boxed(2, 3, 2)}), gate="none")
    assert served.texts == ["\\boxed{2}"]


@pytest.mark.parametrize("edited", ["", "What is 2 + 2?", Draft("What is", "length", n_tokens=2)])
async def test_a_rewriting_that_says_nothing_new_ends_the_loop(serve: Any, edited: Any) -> None:
    served = await serve("self_polish", Scripted({"draft": boxed(5), "rewrite": [edited]}))
    assert served.texts == ["\\boxed{5}"]


async def test_tool_calls_and_the_asked_shape_are_never_lost(serve: Any, ask: Any) -> None:
    call = Draft("", "tool_calls", (ToolCall("1", "look", "{}"),), n_tokens=3)
    engine = Scripted({"draft": [call], "rewrite": ["q1", "q2"], "reworded": boxed(4, 4)})
    assert (await serve("self_polish", engine, gate="none")).outcome.answers[0].tool_calls == call.tool_calls
    question = replace(ask(), format=Format("json_object"))
    valid = lambda op: [d.text == "{}" for d in op.drafts]  # noqa: E731
    script = {"draft": ["{}"], "rewrite": ["q1", "q2"], "reworded": ["[", "["], "json_object": valid}
    assert (await serve("self_polish", Scripted(script), question, rounds=2)).texts == ["{}"]


async def test_a_raw_prompt_is_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="needs messages"):
        await serve("self_polish", Scripted({}), Chat((), prompt="Once upon"))


async def test_the_original_answer_is_served_when_time_is_up_or_the_budget_spent(serve: Any) -> None:
    script = {"draft": boxed(5), "rewrite": ["q1"]}
    gate = Gated(Scripted(script), holds=lambda op, span: op.tag == "reworded")
    served = await serve("self_polish", gate, budget=Budget(seconds=0.05))
    assert (served.texts, served.outcome.stopped, gate.cancelled) == (["\\boxed{5}"], "deadline", 1)
    served = await serve("self_polish", Scripted(script), budget=Budget(calls=2))
    assert (served.texts, served.outcome.stopped) == (["\\boxed{5}"], "budget")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1000
P = 0.6


def clerk(taste: float) -> Clerk:
    """A rewriting is the same question with a word more, so its answer is a fresh draw."""

    def clearer(_: Any, chat: Chat, __: str) -> str:
        return chat.messages[-1].content.partition(" fence>\n")[2].partition("\n</")[0] + " Please."

    return Clerk(P, taste, rivals=1, forms={"rewrite": clearer}, length=8)


async def measure(serve: Any, engine: Clerk, **knobs: Any) -> tuple[float, float]:
    right = calls = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("self_polish", engine, question, seed=i, **knobs)
        right += engine.brain.is_right(question, served.texts[0])
        calls += served.outcome.bill.total.calls
    return right / RUNS, calls / RUNS


async def test_two_rewritings_without_a_gate_are_a_vote_of_three_that_stops_early(serve: Any) -> None:
    law = P**3 + 3 * P**2 * (1 - P)
    got, calls = await measure(serve, clerk(0.5), rounds=2, gate="none")
    assert abs(got - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
    assert abs(calls - (3 + 2 * 2 * P * (1 - P))) < 0.15


async def test_the_gate_decides_where_the_original_answer_is_outvoted(serve: Any) -> None:
    t = 0.9
    law = P + (1 - P) * P**2 * t - P * (1 - P) ** 2 * (1 - t)
    got, _ = await measure(serve, clerk(t), rounds=2)
    assert abs(got - law) < 4 * (law * (1 - law) / RUNS) ** 0.5
