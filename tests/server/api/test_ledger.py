"""The usage block and the progress lines, from events alone."""

from __future__ import annotations

from strop.server.api.ledger import Ledger
from strop.server.api.progress import Progress, machine
from strop.server.service import Ask, Selection
from strop.strategies.direct import direct
from strop.strategies.kit.events import Bill, Event, Finished, Kept, Noted, OpDone, OpStarted, Outcome, Started
from strop.strategies.kit.ops import Generate, Generated, Logprobs, Score, Steps, Verify
from strop.strategies.kit.strategy import strategy_of
from strop.strategies.kit.types import Chat, Draft, Message, Prefix, Usage

QUESTION = Chat((Message("user", "why?"),))
CRITIC = Chat((Message("user", "x"),), tag="critique", answers=False)
REWRITTEN = QUESTION.then(Message("user", "think"))


def ledger(*events: Event) -> Ledger:
    made = Ledger(Ask("id", QUESTION, Selection(strategy_of(direct), {}), "tiny"))
    made(Started("direct", {}, QUESTION))
    for event in events:
        made(event)
    return made


def done(
    chat: Chat, usage: Usage, n: int = 1, prefix: Prefix | None = None, error: str | None = None, prompt: int = 0
) -> OpDone:
    result = Generated((), usage, prompt) if prompt else None
    return OpDone("k", Generate(chat, n, prefix), result, error, usage)


def bill(*parts: Usage) -> Bill:
    return Bill(sum(parts, Usage()))


def test_the_prompt_is_that_of_the_question_as_it_was_asked():
    made = ledger(
        done(CRITIC, Usage(3, 0, 5, 0, 1)),
        done(REWRITTEN, Usage(9, 0, 5, 0, 1)),
        done(QUESTION.but(temperature=0.5), Usage(28, 0, 20, 0, 4), n=4, prompt=7),
    )
    assert made.usage(Outcome((), "done"))["prompt_tokens"] == 7


def test_without_such_an_op_it_is_the_shortest_prompt_that_could_lead_to_an_answer():
    made = ledger(done(CRITIC, Usage(3, 0, 5, 0, 1)), done(REWRITTEN, Usage(9, 0, 5, 0, 2), n=2))
    assert made.usage(Outcome((), "done"))["prompt_tokens"] == 9


def test_a_continued_draft_does_not_count_as_the_clients_prompt():
    made = ledger(
        done(QUESTION, Usage(50, 0, 5, 0, 1), prefix=Prefix(Draft("so far"))), done(QUESTION, Usage(7, 0, 5, 0, 1))
    )
    assert made.usage(Outcome((), "done"))["prompt_tokens"] == 7


def test_an_op_that_never_started_says_nothing_about_the_prompt():
    made = ledger(done(QUESTION, Usage(), error="cancelled"), done(REWRITTEN, Usage(9, 0, 1, 0, 1)))
    assert made.usage(Outcome((), "done"))["prompt_tokens"] == 9


def test_the_usage_identity_holds_with_injected_words_and_hidden_drafts():
    work = [Usage(7, 0, 20, 0, 1), Usage(30, 0, 10, 4, 1)]
    made = ledger(*(done(QUESTION, usage) for usage in work), Finished(Outcome((), "done", bill=bill(*work))))
    usage = made.usage(Outcome((Draft("answer", n_tokens=12, injected=((0, 4),)),), "done"))
    assert usage["completion_tokens"] == 20 + 10 + 4
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 34 - 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_cached_tokens_are_at_most_the_clients_prompt():
    cold = ledger(done(QUESTION, Usage(10, 0, 5, 0, 8), n=8, prompt=10))
    warm = ledger(done(QUESTION, Usage(10, 9, 5, 0, 8), n=8, prompt=10))
    resent = ledger(done(QUESTION, Usage(80, 70, 5, 0, 8), n=8, prompt=10))
    found = [each.usage(Outcome((), "done"))["prompt_tokens_details"]["cached_tokens"] for each in (cold, warm, resent)]
    assert found == [0, 9, 10]


def test_progress_is_short_and_not_repeated():
    progress = Progress()
    draft = Draft("a secret text")
    events: list[Event] = [
        Started("x", {}, QUESTION),
        OpStarted("a", Generate(QUESTION, 8)),
        OpDone("a", Generate(QUESTION, 8)),
        Kept("a", draft),
        Kept("a", draft),
        OpStarted("b", Generate(CRITIC)),
        OpDone("b", Generate(CRITIC)),
        OpDone("c", Generate(CRITIC), error="EngineError: at /some/path"),
        OpDone("c", Generate(CRITIC), error="cancelled"),
        OpDone("d", Score(QUESTION, (draft, draft))),
        OpDone("d", Steps(QUESTION, draft)),
        OpDone("d", Logprobs(QUESTION, (draft,))),
        OpDone("d", Verify(QUESTION, (draft,), by="tests")),
        Kept("a", draft, 0.98765),
        Noted("a", {"why": "a secret text"}),
    ]
    assert [line for event in events if (line := progress.line(event))] == [
        "draft: 8 at once",
        "draft 8 of 8",
        "kept a draft",
        "critique",
        "critique failed",
        "judge scored 2 drafts",
        "prm scored the steps of a draft",
        "weighed 1 drafts",
        "tests checked 1 drafts",
        "kept a draft with score 0.988",
    ]
    assert "secret" not in str([machine(event) for event in events])
    assert "/some/path" not in str([machine(event) for event in events])
