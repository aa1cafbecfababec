"""Self-refine: the loop, its gate, its stops, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Chat, Draft, Format, Message, ToolCall
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Generate, Score
from strop.strategies.testing import Gated, Scripted, Simulated

WRONG, RIGHT = "The sum is off.\n\nVERDICT: wrong", "All good.\n\nVERDICT: correct"


async def test_a_preferred_revision_replaces_the_draft(serve: Any) -> None:
    engine = Scripted(
        {"draft": ["\\boxed{5}"], "critique": [WRONG], "revise": ["\\boxed{4}"], "pairwise": [[0.2, 0.8]]}
    )
    served = await serve("self_refine", engine)
    assert served.texts == ["\\boxed{4}"]
    assert engine.tags == ["draft", "critique", "revise", "pairwise"]
    assert served.notes["stopped"] == "rounds"


async def test_the_critic_sees_question_and_candidate_behind_the_fence_and_nothing_else(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": ["It is 5."], "critique": [RIGHT]})
    await serve("self_refine", engine, ask("What is 2 + 2?", max_tokens=7, stop=("x",)))
    op = engine.asked[1]
    assert isinstance(op, Generate)
    assert [m.role for m in op.chat.messages] == ["system", "user"]
    assert "<question fence>\nWhat is 2 + 2?\n</question fence>" in op.chat.messages[1].content
    assert "<candidate fence>\nIt is 5.\n</candidate fence>" in op.chat.messages[1].content
    assert (op.chat.sampling.temperature, op.chat.sampling.stop, op.chat.answers) == (0.0, (), False)


async def test_the_revision_follows_the_conversation_under_the_clients_rules(serve: Any, ask: Any) -> None:
    turns = (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "2+2"),
    )
    question = replace(ask(max_tokens=50), messages=turns)
    engine = Scripted({"draft": ["5"], "critique": [WRONG], "revise": ["4"], "pairwise": [[0, 1]]})
    await serve("self_refine", engine, question)
    op = engine.asked[2]
    assert isinstance(op, Generate)
    assert op.chat.messages[:4] == turns
    assert "The sum is off." in op.chat.messages[4].content
    assert (op.chat.sampling.max_tokens, op.chat.answers) == (50, True)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([0.5, 0.5], "the gate prefers the old answer"),
        ([0.6, 0.5], "the gate prefers the old answer"),
        ([None, 0.9], "the gate could not tell"),
        ([0.1, None], "the gate could not tell"),
    ],
)
async def test_the_old_answer_stays_on_a_tie_and_without_a_score(serve: Any, values: list[Any], why: str) -> None:
    engine = Scripted({"draft": ["\\boxed{5}"], "critique": [WRONG], "revise": ["\\boxed{4}"], "judge": [values]})
    served = await serve("self_refine", engine, gate="judge", rounds=3)
    assert (served.texts, served.notes["stopped"]) == (["\\boxed{5}"], why)


async def test_the_gate_compares_old_and_new_for_the_question_alone(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": ["5"], "critique": [WRONG], "revise": ["4"], "taste": [[0, 1]]})
    await serve("self_refine", engine, gate="taste")
    op = engine.asked[3]
    assert isinstance(op, Score)
    assert op.chat == ask()
    assert [draft.text for draft in op.drafts] == ["5", "4"]


async def test_without_a_gate_every_revision_is_taken(serve: Any) -> None:
    engine = Scripted({"draft": ["5"], "critique": [WRONG], "revise": ["6"]})
    assert (await serve("self_refine", engine, gate="none")).texts == ["6"]


@pytest.mark.parametrize(
    ("critique", "why"),
    [
        (RIGHT, "the critic found nothing"),
        ("Hard to say.", "the verdict could not be read"),
        (Draft("VERDICT: wrong, or rather", "length", n_tokens=4), "the verdict could not be read"),
    ],
)
async def test_a_content_or_unreadable_critic_ends_the_loop(serve: Any, critique: str | Draft, why: str) -> None:
    engine = Scripted({"draft": ["5"], "critique": [critique]})
    served = await serve("self_refine", engine, rounds=4)
    assert (served.texts, served.notes["stopped"]) == (["5"], why)


async def test_a_revision_with_the_same_answer_ends_the_loop_without_asking_the_gate(serve: Any) -> None:
    engine = Scripted({"draft": ["so \\boxed{5}"], "critique": [WRONG], "revise": ["again \\boxed{5}"]})
    served = await serve("self_refine", engine, rounds=4)
    assert (served.texts, served.notes["stopped"]) == (["so \\boxed{5}"], "the revision gives the same answer")


async def test_rounds_go_on_while_the_answer_gets_better(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": ["\\boxed{1}"],
            "critique": [WRONG, WRONG, RIGHT],
            "revise": ["\\boxed{2}", "\\boxed{3}"],
            "pairwise": [[0, 1], [0, 1]],
        }
    )
    served = await serve("self_refine", engine, rounds=8)
    assert served.texts == ["\\boxed{3}"]
    assert engine.unused() == {}


async def test_tool_calls_are_reviewed_as_text_and_never_lost(serve: Any) -> None:
    call = Draft("", "tool_calls", (ToolCall("1", "look", '{"x": 1}'),), n_tokens=3)
    engine = Scripted({"draft": [call], "critique": [WRONG], "revise": ["I would rather talk."]})
    served = await serve("self_refine", engine)
    assert served.outcome.answers[0].tool_calls == call.tool_calls
    assert served.notes["stopped"] == "the revision dropped the tool calls"
    assert 'call look({"x": 1})' in engine.asked[1].chat.messages[1].content


async def test_a_revised_tool_call_can_win(serve: Any) -> None:
    old, new = (Draft("", "tool_calls", (ToolCall("1", "look", f'{{"x": {x}}}'),), n_tokens=3) for x in (1, 2))
    engine = Scripted({"draft": [old], "critique": [WRONG], "revise": [new], "pairwise": [[0, 1]]})
    assert (await serve("self_refine", engine)).outcome.answers[0].tool_calls == new.tool_calls


async def test_a_revision_of_the_wrong_shape_cannot_win(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted(
        {"draft": ['{"x": 1}'], "critique": [WRONG], "revise": ['{"x": 2'], "json_object": [[True, False]]}
    )
    assert (await serve("self_refine", engine, question, gate="none")).texts == ['{"x": 1}']


async def test_of_two_drafts_of_the_wrong_shape_the_old_one_stays(serve: Any, ask: Any) -> None:
    question = replace(ask(), format=Format("json_object"))
    engine = Scripted({"draft": ["{"], "critique": [WRONG], "revise": ["["], "json_object": [[False, False]]})
    assert (await serve("self_refine", engine, question, gate="none")).texts == ["{"]


async def test_an_unfinished_revision_cannot_win(serve: Any) -> None:
    engine = Scripted({"draft": ["5"], "critique": [WRONG], "revise": [Draft("4 becau", "length", n_tokens=2)]})
    served = await serve("self_refine", engine, gate="none")
    assert served.notes["stopped"] == "the revision is unfinished or has the wrong shape"


async def test_a_raw_prompt_is_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="needs messages"):
        await serve("self_refine", Scripted({}), Chat((), prompt="Once upon"))


async def test_every_choice_is_refined_on_its_own(serve: Any) -> None:
    engine = Scripted({"draft": ["a", "b"], "critique": [RIGHT, RIGHT]})
    assert (await serve("self_refine", engine, choices=2)).texts == ["a", "b"]


async def test_the_best_so_far_is_served_when_time_is_up(serve: Any) -> None:
    script = {"draft": ["\\boxed{5}"], "critique": [WRONG, WRONG], "revise": ["\\boxed{4}", "\\boxed{3}"]}
    gate = Gated(Scripted(script | {"pairwise": [[0, 1]]}), holds=lambda op, span: span.key.endswith("#7"))
    served = await serve("self_refine", gate, rounds=2, budget=Budget(seconds=0.05))
    assert served.texts == ["\\boxed{4}"]
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 1)


async def test_the_best_so_far_is_served_when_the_budget_is_spent(serve: Any) -> None:
    engine = Scripted({"draft": ["5"], "critique": [WRONG]})
    served = await serve("self_refine", engine, budget=Budget(calls=2))
    assert served.texts == ["5"]
    assert (served.outcome.stopped, served.outcome.degraded) == ("budget", "kept")


# ---- laws ----------------------------------------------------------------------------------------------------------

RUNS = 1500


async def accuracy(serve: Any, engine: Simulated, **knobs: Any) -> float:
    right = 0
    for i in range(RUNS):
        question = f"What is {i} + {i + 1}?"
        served = await serve("self_refine", engine, question, seed=i, **knobs)
        right += engine.brain.is_right(question, served.outcome.answers[0].text)
    return right / RUNS


def noise(p: float) -> float:
    return 4 * float((p * (1 - p) / RUNS) ** 0.5)


async def test_without_a_gate_accuracy_follows_the_critics_taste_confidence_and_insight(serve: Any) -> None:
    p, t, keeps, fixes = 0.6, 0.7, 0.5, 0.3
    engine = Simulated(p, t, confidence=keeps, insight=fixes, length=8)
    law = p * (t + (1 - t) * keeps) + (1 - p) * t * fixes
    assert abs(await accuracy(serve, engine, gate="none") - law) < noise(law)


async def test_with_a_gate_accuracy_is_what_the_gate_lets_through(serve: Any) -> None:
    p, t, keeps, fixes = 0.6, 0.8, 0.2, 0.5
    engine = Simulated(p, t, confidence=keeps, insight=fixes, length=8)
    law = p * (1 - (1 - t) * (1 - keeps) * (1 - t)) + (1 - p) * t * fixes * t
    assert abs(await accuracy(serve, engine) - law) < noise(law)


async def test_a_gate_without_taste_loses_nothing_but_noise_when_revisions_are_fair(serve: Any) -> None:
    """Revisions that break as much as they repair (0.6 * 0.2 = 0.4 * 0.3): any gate, even a coin, keeps accuracy."""
    engine = Simulated(0.6, 0.5, confidence=0.8, insight=0.3, length=8)
    assert abs(await accuracy(serve, engine) - 0.6) < noise(0.6)


async def test_a_perfect_gate_never_loses_a_right_answer(serve: Any) -> None:
    for i in range(200):
        question = f"What is {i} + 1?"
        engine = Simulated(1.0, 1.0, confidence=0.0, insight=0.0, length=8)
        served = await serve("self_refine", engine, question, seed=i)
        assert engine.brain.is_right(question, served.texts[0])


async def test_the_cost_is_what_the_docstring_says(serve: Any) -> None:
    engine = Scripted(
        {
            "draft": ["\\boxed{1}"],
            "critique": [WRONG] * 3,
            "revise": [f"\\boxed{{{i}}}" for i in (2, 3, 4)],
            "pairwise": [[0, 1]] * 3,
        }
    )
    await serve("self_refine", engine, rounds=3)
    assert engine.tags == ["draft", *["critique", "revise", "pairwise"] * 3]
