"""Plain sampling."""

from __future__ import annotations

from typing import Any

from strop.strategies.kit.events import Committed
from strop.strategies.kit.ops import Generate
from strop.strategies.testing import Scripted


async def test_the_words_stream_as_they_come(serve: Any) -> None:
    served = await serve("direct", Scripted({"draft": ["It is 4."]}))
    assert "".join(e.delta.text for e in served.events if isinstance(e, Committed)) == "It is 4."
    assert served.texts == ["It is 4."]
    assert served.outcome.bill.discarded == 0


async def test_a_clients_seed_reaches_the_engine_as_it_is(serve: Any, ask: Any) -> None:
    engine = Scripted({"draft": ["4"]})
    await serve("direct", engine, ask(seed=17), seed=17)
    [op] = engine.asked
    assert isinstance(op, Generate)
    assert op.chat.sampling.seed == 17


async def test_all_choices_are_one_call_and_stream_side_by_side(serve: Any) -> None:
    engine = Scripted({"draft": ["one", "two", "three"]})
    served = await serve("direct", engine, choices=3)
    assert served.texts == ["one", "two", "three"]
    assert len(engine.asked) == 1
    assert [(e.delta.index, e.delta.text) for e in served.events if isinstance(e, Committed)] == [
        (0, "one"),
        (1, "two"),
        (2, "three"),
    ]
