"""What goes wrong stays where it is: aborts, bad numbers, bad requests, a dying thread."""

from __future__ import annotations

import copy
import threading
from typing import Any

import anyio
import pytest

torch = pytest.importorskip("torch", reason="the embedded engine needs torch")

from strop.server.engine.chat.types import EngineDead, Grammar, RequestFailed, TokenRequest  # noqa: E402
from strop.server.engine.transformers.batcher import Limits  # noqa: E402
from strop.server.engine.transformers.load import Loaded, describe  # noqa: E402
from strop.server.engine.transformers.loop import Engine  # noqa: E402
from tests.server.engine.transformers.tiny import make_tokenizer, until  # noqa: E402

POISON = 7
LONG = TokenRequest((1, 2, 3), max_tokens=400, ignore_eos=True, seed=1)


@pytest.fixture(scope="module")
def poisoned(original: Any) -> Loaded:
    """A model that turns to NaN once it reads token POISON."""
    model = copy.deepcopy(original)
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = torch.nan
    return describe(model, make_tokenizer(), "poisoned")


@pytest.mark.parametrize("bad", [{"prompt_ids": (1, POISON, 2)}, {"logit_bias": ((POISON, 1e5),)}])
async def test_bad_numbers_cost_only_their_request(poisoned: Loaded, bad: dict[str, Any]) -> None:
    """Once in the prompt, once while decoding; the row's place is used again afterwards."""
    good = TokenRequest((1, 2, 3), n=3, max_tokens=60, seed=3, ignore_eos=True, logit_bias=((POISON, -1e5),))
    async with Engine(poisoned, Limits(rows=4)) as engine:
        want = await engine.generate(good)
        running = engine.submit(good)
        failing = [engine.submit(TokenRequest(**{"prompt_ids": (1, 2, 3), "max_tokens": 9} | bad)) for _ in range(3)]
        for handle in failing:
            with pytest.raises(RequestFailed, match="not finite"):
                await handle.results()
            assert [draft.finish for draft in handle.partials()] == ["error"]
        assert [r.ids for r in await running.results()] == [r.ids for r in want.results]
        again = await engine.generate(good)
        assert [r.ids for r in again.results] == [r.ids for r in want.results]
        assert engine.healthy


async def test_a_bad_grammar_is_refused_before_it_starts(engine: Engine) -> None:
    for grammar in (
        Grammar("json_schema", schema={"type": "nonsense"}),
        Grammar("json_schema"),
        Grammar("regex", pattern="("),
        Grammar("choice"),
    ):
        with pytest.raises(ValueError, match="grammar"):
            await engine.open(TokenRequest((1,), grammar=grammar))


async def test_unknown_token_ids_are_refused(engine: Engine) -> None:
    for request in (
        TokenRequest((1, 320)),
        TokenRequest((-1,)),
        TokenRequest((1,), logit_bias=((999, 1.0),)),
        TokenRequest((1,), stop_token_ids=(999,)),
    ):
        with pytest.raises(ValueError, match="not in the vocabulary"):
            engine.submit(request)


async def test_an_abort_frees_the_row_at_the_next_step(engine: Engine) -> None:
    handle = engine.submit(LONG)
    await until(lambda: len(handle.partials()[0].ids) > 3)
    handle.cancel()
    at_cancel = len(handle.partials()[0].ids)
    await handle.results()
    [draft] = handle.partials()
    assert draft.finish == "abort"
    assert at_cancel <= len(draft.ids) <= at_cancel + 2
    assert engine.load().running == 0
    assert handle.usage().completion_tokens == len(draft.ids)
    assert handle.usage().prompt_tokens == 3


async def test_one_draft_of_several_can_be_dropped(engine: Engine) -> None:
    handle = engine.submit(TokenRequest((1, 2, 3), n=3, max_tokens=60, ignore_eos=True))
    await until(lambda: len(handle.partials()[2].ids) > 3)
    handle.cancel(1)
    assert [draft.finish for draft in await handle.results()] == ["length", "abort", "length"]


async def test_a_request_that_never_started_costs_nothing(loaded: Loaded) -> None:
    async with Engine(loaded, Limits(rows=1)) as engine:
        running, waiting = engine.submit(LONG), engine.submit(LONG)
        await until(lambda: engine.load().running == 1)
        waiting.cancel()
        await waiting.results()
        assert (waiting.usage().prompt_tokens, waiting.usage().completion_tokens) == (0, 0)
        running.cancel()


async def test_a_cancelled_caller_cancels_the_request(engine: Engine) -> None:
    with anyio.move_on_after(0.05):
        await engine.generate(LONG)
    with anyio.move_on_after(0.05):
        async for _ in engine.stream(LONG):
            pass
    await until(
        lambda: (
            engine.load() == engine.load().__class__(0, 0, engine.load().forward_tokens, engine.load().prefix_tokens)
        )
    )


async def test_a_caller_whose_loop_is_gone_does_not_hurt(engine: Engine) -> None:
    def elsewhere() -> None:
        async def listen() -> None:
            handle = engine.submit(LONG, stream=True)
            events = handle.events()
            await anext(events)
            handles.append(handle)
            await events.aclose()

        anyio.run(listen)

    handles: list[Any] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    await until(lambda: handles[0].done)
    assert engine.healthy


async def test_a_crash_fails_every_request_and_says_so(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Engine(loaded) as engine:
        handle = engine.submit(LONG, stream=True)
        await until(lambda: len(handle.partials()[0].ids) > 3)

        def broken(*_: Any) -> Any:
            raise RuntimeError("out of luck")

        monkeypatch.setattr(engine._batcher.runner, "decode", broken)
        with pytest.raises(EngineDead, match="out of luck"):
            await handle.results()
        assert handle.partials()[0].finish == "error"
        assert len(handle.partials()[0].ids) > 3
        await until(lambda: not engine.healthy)
        assert "out of luck" in engine.why_not
        with pytest.raises(EngineDead, match="out of luck"):
            engine.submit(LONG)
        with pytest.raises(EngineDead):
            await engine.score((1, 2), [(3,)])


async def test_stopping_ends_requests_and_the_thread(loaded: Loaded) -> None:
    before = threading.active_count()
    engine = Engine(loaded)
    with pytest.raises(EngineDead, match="not started"):
        engine.submit(LONG)
    async with engine:
        handles = [engine.submit(LONG) for _ in range(3)]
    assert all(isinstance(handle.error, EngineDead) for handle in handles)
    assert all(handle.done for handle in handles)
    assert not any(thread.name == "strop-embedded-engine" for thread in threading.enumerate())
    assert threading.active_count() <= before + 2  # anyio keeps an idle worker thread
    with pytest.raises(RuntimeError, match="only once"):
        engine.start()


def test_an_engine_works_without_an_event_loop(loaded: Loaded) -> None:
    engine = Engine(loaded)
    engine.start()
    try:
        [result] = engine.submit(TokenRequest((1, 2), max_tokens=3, ignore_eos=True)).wait(10)
        assert len(result.ids) == 3
        with pytest.raises(TimeoutError):
            engine.submit(LONG).wait(0)
    finally:
        engine.close()
