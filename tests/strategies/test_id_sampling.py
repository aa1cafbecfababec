"""Iterative deepening sampling: schedules, cuts, limits, laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strop.strategies.kit import Budget, Draft, Format, Tokens, Tool, ToolChoice
from strop.strategies.kit.errors import BadRequest, ContextTooLong
from strop.strategies.kit.events import Committed
from strop.strategies.kit.ops import Generate, Generated, Op, Result
from strop.strategies.kit.span import Span
from strop.strategies.kit.types import Usage
from strop.strategies.testing import Gated
from strop.strategies.testing.words import tokens_of, words

TRIGGER = "\n\nWait! Maybe I made some mistakes! I need to rethink from scratch.\n\n"
SENTENCE = " one two three four five six seven."


class Rambler:
    """Writes sentences until the whole turn has `length` tokens, then stops; honours max_tokens and prefixes."""

    def __init__(self, length: int, filler: str = SENTENCE, *, tokens: bool = True, context: int | None = None) -> None:
        self.length, self.filler, self.tokens, self.context = length, filler, tokens, context
        self.asked: list[Generate] = []
        self.drafts: list[Draft] = []

    async def __call__(self, op: Op, span: Span) -> Result:
        assert isinstance(op, Generate)
        self.asked.append(op)
        before, inject = (op.prefix.draft, op.prefix.inject) if op.prefix else (Draft(""), "")
        held, added = words(before.text) if before.text else (), words(inject)
        most = op.chat.sampling.max_tokens
        if self.context is not None and len(held) + len(added) + (most or 0) > self.context:
            raise ContextTooLong(len(held) + len(added) + (most or 0), self.context)
        wanted = max(0, self.length - len(held) - len(added))
        count = wanted if most is None else min(wanted, most)
        filler = words(self.filler)
        pieces = [*held, *added, *(filler[i % len(filler)] for i in range(count))]
        text = "".join(pieces)
        inserted = ((len(held), len(held) + len(added)),) if added else ()
        draft = Draft(
            text,
            "stop" if count == wanted else "length",
            tokens=tokens_of(text) if self.tokens else tokens_of(""),
            n_tokens=len(pieces),
            injected=before.injected + inserted,
        )
        self.drafts.append(draft)
        return Generated((draft,), Usage(len(held) + len(added), 0, count, len(added), 1))

    @property
    def triggers(self) -> int:
        return self.drafts[-1].text.count(TRIGGER.strip())


async def test_a_short_answer_is_plain_sampling(serve: Any) -> None:
    engine = Rambler(300)
    served = await serve("id_sampling", engine)
    assert (len(engine.asked), served.notes["triggers"]) == (1, 0)
    assert engine.asked[0].prefix is None


@pytest.mark.parametrize(
    ("first", "growth", "length", "triggers"),
    [
        (512, 2.0, 1000, 1),
        (512, 2.0, 4000, 3),
        (512, 2.0, 16000, 5),
        (512, 2.0, 32000, 6),
        (256, 1.5, 1000, 4),
        (256, 1.5, 4000, 7),
        (256, 1.5, 16000, 11),
        (256, 1.5, 32000, 12),
        (512, 2.0, 511, 0),
    ],
)
async def test_triggers_follow_the_law_of_the_schedule(
    serve: Any, first: int, growth: float, length: int, triggers: int
) -> None:
    engine = Rambler(length)
    served = await serve("id_sampling", engine, first=first, growth=growth, max_triggers=64)
    [answer] = served.outcome.answers
    assert (engine.triggers, served.notes["triggers"], len(answer.injected)) == (triggers, triggers, triggers)
    assert len(engine.asked) == triggers + 1
    assert (answer.n_tokens, answer.finish) == (length, "stop")


async def test_the_intervals_of_the_cumulative_schedule_grow_with_the_whole_answer(serve: Any) -> None:
    engine = Rambler(10_000)
    await serve("id_sampling", engine, first=100, max_triggers=3)
    lengths = [draft.n_tokens for draft in engine.drafts]
    assert [abs(got - goal) <= 16 for got, goal in zip(lengths[:3], [100, 200, 400], strict=True)] == [True] * 3
    assert lengths[3] == 10_000


async def test_the_segments_of_the_segment_schedule_grow(serve: Any) -> None:
    engine = Rambler(10_000)
    await serve("id_sampling", engine, first=100, max_triggers=3, schedule="segment")
    assert [op.chat.sampling.max_tokens for op in engine.asked] == [100, 200, 400, None]


async def test_no_more_triggers_than_wanted(serve: Any) -> None:
    engine = Rambler(50_000)
    await serve("id_sampling", engine, max_triggers=2)
    assert (engine.triggers, engine.drafts[-1].n_tokens) == (2, 50_000)
    none = Rambler(5_000)
    await serve("id_sampling", none, max_triggers=0)
    assert (none.triggers, len(none.asked)) == (0, 1)


async def test_every_trigger_follows_a_whole_sentence_and_is_flagged(serve: Any) -> None:
    served = await serve("id_sampling", Rambler(4000))
    [answer] = served.outcome.answers
    for start, end in answer.injected:
        assert "".join(answer.tokens.texts[start:end]) == TRIGGER
        assert answer.tokens.texts[start - 1].endswith(".")
    assert served.outcome.bill.total.injected == answer.n_injected


async def test_a_paragraph_end_is_the_preferred_place(serve: Any) -> None:
    engine = Rambler(400, " One two three. Four five six seven.\n\nEight nine ten eleven. Twelve")
    await serve("id_sampling", engine, first=100, max_triggers=1)
    before = engine.drafts[-1].text.partition("Wait!")[0]
    assert before.endswith("seven.\n\n")


async def test_the_cut_loses_at_most_64_tokens(serve: Any) -> None:
    engine = Rambler(400, " word" * 70 + ".")
    await serve("id_sampling", engine, first=100, max_triggers=1)
    assert engine.asked[1].prefix is not None
    assert engine.asked[1].prefix.draft.n_tokens >= 36


async def test_a_place_further_back_than_64_tokens_is_no_place(serve: Any) -> None:
    engine = Rambler(300, " word" * 80 + ".")
    await serve("id_sampling", engine, first=150, max_triggers=1)
    assert engine.triggers == 0


async def test_json_is_not_cut_open(serve: Any) -> None:
    engine = Rambler(60, '{"a": "one two. three"}' + " word" * 200)
    await serve("id_sampling", engine, first=20, max_triggers=1)
    assert engine.triggers == 0


async def test_nothing_is_cut_away_once_the_answer_is_given(serve: Any) -> None:
    engine = Rambler(300, " one two three. So it is \\boxed{4} and" + " so on" * 200)
    served = await serve("id_sampling", engine, first=20, max_triggers=2)
    assert (engine.triggers, served.notes["skipped"]) == (0, 2)


async def test_without_a_place_to_cut_the_trigger_is_skipped_and_nothing_is_lost(serve: Any) -> None:
    engine = Rambler(300, " word")
    served = await serve("id_sampling", engine, first=100)
    assert (engine.triggers, served.notes["skipped"]) == (0, 2)
    assert served.outcome.answers[0].text == " word" * 300


async def test_code_is_never_interrupted(serve: Any) -> None:
    engine = Rambler(300, " ```python x = 1. y = 2.\n\n z")
    engine.filler = "```python\n" + "x = 1.\n\n" * 200
    await serve("id_sampling", engine, first=100, max_triggers=1)
    assert engine.triggers == 0


async def test_the_clients_limit_bounds_the_whole_answer_triggers_included(serve: Any, ask: Any) -> None:
    for limit in (100, 512, 520, 530, 600, 1024, 1037, 2000):
        served = await serve("id_sampling", Rambler(10_000), ask(max_tokens=limit))
        [answer] = served.outcome.answers
        assert limit - 20 <= answer.n_tokens <= limit
        assert answer.finish == "length"
        assert not answer.clipped


async def test_a_trigger_of_more_tokens_than_expected_does_not_break_the_limit(
    serve: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "words", lambda text: tuple(text))
    monkeypatch.setitem(globals(), "tokens_of", lambda text: Tokens(tuple(map(ord, text)), tuple(text)))
    served = await serve("id_sampling", Rambler(10_000), ask(max_tokens=600))
    [answer] = served.outcome.answers
    assert len(answer.injected) == 1
    assert (answer.n_tokens, len(answer.text)) == (600, 600)


async def test_the_clients_least_length_is_spread_over_the_stretches(serve: Any, ask: Any) -> None:
    engine = Rambler(2000)
    await serve("id_sampling", engine, ask(min_tokens=600))
    assert [op.chat.sampling.min_tokens <= (op.chat.sampling.max_tokens or 600) for op in engine.asked] == [True] * 3
    assert [op.chat.sampling.min_tokens for op in engine.asked][::2] == [512, 0]


async def test_text_without_tokens_is_cut_as_text(serve: Any) -> None:
    engine = Rambler(2000, tokens=False)
    served = await serve("id_sampling", engine)
    assert engine.triggers == 2
    for part in served.texts[0].split(TRIGGER)[:-1]:
        assert part.endswith("seven.")


@pytest.mark.parametrize("shape", ["json", "tools"])
async def test_tools_and_structured_output_turn_triggers_off(serve: Any, ask: Any, shape: str) -> None:
    question = ask()
    if shape == "json":
        question = replace(question, format=Format("json_object"))
    else:
        question = replace(question, tools=(Tool("look"),))
    engine = Rambler(3000)
    served = await serve("id_sampling", engine, question)
    assert (len(engine.asked), engine.triggers, served.notes["why"]) == (1, 0, "tools or structured output")
    if shape == "tools":
        talkative = Rambler(3000)
        await serve("id_sampling", talkative, replace(question, tool_choice=ToolChoice("none")))
        assert talkative.triggers == 3


async def test_what_cannot_change_any_more_is_streamed(serve: Any) -> None:
    served = await serve("id_sampling", Rambler(2000))
    streamed = "".join(e.delta.text for e in served.events if isinstance(e, Committed))
    assert len(streamed) > 3000
    assert served.texts[0].startswith(streamed)


async def test_restarting_throws_the_attempt_away_and_doubles_the_room(serve: Any) -> None:
    engine = Rambler(3000)
    served = await serve("id_sampling", engine, keep=False)
    assert [op.chat.sampling.max_tokens for op in engine.asked] == [512, 1024, 2048, 4096]
    assert all(op.prefix is None for op in engine.asked)
    assert served.outcome.answers[0].n_tokens == 3000
    assert served.outcome.bill.total.completion <= 2 * 2 * 3000


async def test_several_choices_are_independent_chains(serve: Any) -> None:
    engine = Rambler(1000)
    served = await serve("id_sampling", engine, choices=3)
    assert len(served.texts) == 3
    assert len(engine.asked) == 6


async def test_a_full_context_ends_the_answer_with_what_there_is(serve: Any) -> None:
    served = await serve("id_sampling", Rambler(5000, context=800))
    assert (served.outcome.stopped, served.outcome.answers[0].n_tokens) == ("done", 512)


async def test_a_context_too_small_for_the_first_stretch_means_plain_sampling(serve: Any) -> None:
    engine = Rambler(200, context=300)
    served = await serve("id_sampling", engine)
    assert served.outcome.answers[0].n_tokens == 200


async def test_a_budget_ends_the_answer_where_it_is_spent(serve: Any) -> None:
    for tokens in (300, 512, 700, 1500):
        served = await serve("id_sampling", Rambler(5000), budget=Budget(tokens=tokens))
        assert served.outcome.stopped == "budget"
        assert served.outcome.bill.total.completion <= tokens
        assert served.outcome.answers[0].n_tokens > tokens / 2


async def test_the_last_whole_stretch_is_served_when_time_is_up(serve: Any) -> None:
    gate = Gated(Rambler(5000), holds=lambda op, span: span.key.endswith("#3"))
    served = await serve("id_sampling", gate, budget=Budget(seconds=0.05))
    assert (served.outcome.stopped, served.outcome.degraded, gate.cancelled) == ("deadline", "kept", 1)
    assert served.outcome.answers[0].n_tokens == 512


async def test_a_ratio_that_does_not_grow_is_refused(serve: Any) -> None:
    with pytest.raises(BadRequest, match="greater than 1"):
        await serve("id_sampling", Rambler(10), growth=1.0)
