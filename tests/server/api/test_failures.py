"""What clients see when something goes wrong, before, during and after the work."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from strop.server.api.errors import TABLE, HttpError, problem_of
from strop.server.quota import RateLimited
from strop.strategies.kit import errors
from strop.strategies.kit.types import Draft
from strop.strategies.testing import Gated, Scripted, Simulated

ASK: list[Any] = [{"role": "user", "content": "What is 6 times 7?"}]
SECRET = "http://10.0.0.7:9000/v1 at /opt/models"


def events_of(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("failure", "status", "kind", "code"),
    [
        (errors.BadRequest("no", param="n", code="invalid_value"), 400, "invalid_request_error", "invalid_value"),
        (errors.MissingCapability("prm", "none"), 400, "invalid_request_error", "unsupported_capability"),
        (errors.ContextTooLong(9, 8), 400, "invalid_request_error", "context_length_exceeded"),
        (errors.BudgetSpent("tokens"), 400, "invalid_request_error", "budget_exceeded"),
        (errors.DeadlinePassed(1.5), 504, "server_error", "strategy_timeout"),
        (errors.EngineOverloaded(SECRET, retry_after=0.2), 503, "server_error", "engine_overloaded"),
        (errors.EngineUnavailable(SECRET), 503, "server_error", "engine_unavailable"),
        (errors.EngineError(SECRET), 502, "server_error", "engine_error"),
        (errors.ScorerError(SECRET), 500, "server_error", "scorer_error"),
        (errors.ReplayMismatch(SECRET), 500, "server_error", "internal_error"),
        (RuntimeError(SECRET), 500, "server_error", "internal_error"),
        (ExceptionGroup("several", [errors.EngineError(SECRET)]), 502, "server_error", "engine_error"),
        (RateLimited("slow down", retry_after=2.5), 429, None, "rate_limit_exceeded"),
        (HttpError(418, "short and stout", code="teapot"), 418, "invalid_request_error", "teapot"),
    ],
)
def test_every_kind_of_failure_has_a_status_a_type_and_a_code(failure, status, kind, code):
    problem = problem_of(failure)
    assert (problem.status, problem.code) == (status, code)
    assert kind in (None, problem.kind)
    assert SECRET not in json.dumps(problem.body)
    assert set(problem.body["error"]) == {"message", "type", "param", "code"}


def test_the_table_has_a_row_for_every_error_of_the_kit_or_for_its_parent():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.StropError)]
    assert len(kinds) > 8
    assert all(any(parent in TABLE for parent in kind.__mro__) for kind in kinds)


@pytest.mark.parametrize(("seconds", "whole", "thousandths"), [(0.2, "1", "200"), (2.5, "3", "2500"), (0.0, "1", "1")])
def test_overload_says_when_to_come_back_in_both_spellings(seconds, whole, thousandths):
    problem = problem_of(errors.EngineOverloaded("full", retry_after=seconds))
    assert problem.headers == {"retry-after": whole, "retry-after-ms": thousandths}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (errors.EngineError(SECRET), 502),
        (errors.EngineUnavailable(SECRET), 503),
        (errors.EngineOverloaded(SECRET), 503),
        (errors.ContextTooLong(3000, 2048), 400),
        (ValueError(SECRET), 500),
    ],
)
def test_an_engine_that_fails_at_once_gives_an_http_status_even_to_streams(serve, stream, failure, status):
    server = serve(Scripted({"draft": [failure]}))
    answer = server.chat(stream=stream)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert SECRET not in answer.text
    assert answer.headers["x-strop-strategy"] == "direct"
    assert ("retry-after" in answer.headers) == (status == 503)
    assert "x-should-retry" not in answer.headers, "nothing was spent"


def test_a_bug_in_a_strategy_is_a_neutral_500_and_the_server_lives_on(live):
    answer = live.chat(model="tiny:buggy")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    assert live.chat().status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_late_failure_serves_the_best_draft_so_far_and_says_so(serve, stream):
    server = serve(Scripted({"draft": ["forty-two"], "critique": [errors.EngineError(SECRET)]}))
    answer = server.chat(model="tiny:revise", stream=stream)
    assert answer.status_code == 200
    if stream:
        chunks = events_of(answer.text)
        assert chunks[-1] == "[DONE]"
        strop = chunks[-2]["strop"]
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    else:
        strop, text = answer.json()["strop"], answer.json()["choices"][0]["message"]["content"]
    assert (strop["stopped"], strop["degraded"], text) == ("error", "kept", "forty-two")
    assert SECRET not in answer.text


def test_after_the_words_have_begun_a_failure_serves_the_words_that_there_are(serve):
    server = serve(Scripted({"draft": [errors.EngineError(SECRET)]}))
    chunks = events_of(server.chat(model="tiny:wordy", stream=True).text)
    assert chunks[-1] == "[DONE]"
    assert chunks[-2]["strop"]["degraded"] == "partial"
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


def slowly(failure: Exception) -> Any:
    """An engine that takes longer than the status line waits, then fails."""

    async def perform(op: Any, span: Any) -> Any:
        import anyio

        await anyio.sleep(0.4)
        raise failure

    return perform


def test_a_failure_in_the_middle_with_nothing_to_serve_is_an_error_event_without_done(serve):
    server = serve(slowly(errors.EngineError(SECRET)), sse_keep_alive_interval=0.05)
    answer = server.chat(stream=True)
    assert answer.status_code == 200
    events = events_of(answer.text)
    assert events[-1]["error"]["code"] == "engine_error"
    assert "[DONE]" not in answer.text
    assert SECRET not in answer.text
    with pytest.raises(openai.APIError):
        list(server.sdk().chat.completions.create(model="tiny", messages=ASK, stream=True))


def test_silence_is_filled_with_comments_that_no_client_sees(serve):
    server = serve(Simulated(length=6, pace=0.06), sse_keep_alive_interval=0.02)
    answer = server.chat(stream=True)
    assert answer.text.count(": keep-alive\n\n") > 3
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert not [line for line in answer.text.splitlines() if line.startswith("event:")]
    stream = server.sdk().chat.completions.create(model="tiny", messages=ASK, stream=True)
    assert len(list(stream)) > 3


def test_without_an_interval_there_are_no_comments(serve):
    server = serve(Simulated(length=4, pace=0.02), sse_keep_alive_interval=0)
    assert ": keep-alive" not in server.chat(stream=True).text


@pytest.mark.parametrize("stream", [True, False])
def test_a_full_queue_is_503_with_a_time_to_come_back(serve, doubles, stream):
    server = serve(Simulated(length=5000, pace=0.005), max_concurrent_requests=1, max_queued_requests=0)
    with server.http.stream(
        "POST", "/v1/chat/completions", json={"model": "tiny", "messages": ASK, "stream": True}
    ) as first:
        words = first.iter_bytes()
        next(words)
        answer = server.chat(stream=stream)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_overloaded"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["retry-after-ms"] == "1000"


@pytest.mark.parametrize("stream", [True, False])
def test_a_deadline_before_the_first_token_is_504_and_not_to_be_retried(serve, stream):
    server = serve(Gated(Simulated()))
    answer = server.chat(strop={"budget": {"seconds": 0.05}}, stream=stream)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "strategy_timeout"
    assert answer.headers["x-should-retry"] == "false"


def test_a_deadline_after_the_first_words_serves_them(serve):
    server = serve(Simulated(length=5000, pace=0.005))
    answer = server.chat(strop={"budget": {"seconds": 0.2}})
    assert answer.status_code == 200
    assert answer.json()["strop"]["stopped"] == "deadline"
    assert answer.json()["strop"]["degraded"] == "partial"
    assert answer.json()["choices"][0]["finish_reason"] == "length"


def test_errors_after_expensive_work_tell_clients_not_to_retry(serve):
    unusable = Draft("", n_tokens=9)
    server = serve(Scripted({"draft": [unusable, errors.EngineError("down")]}))
    answer = server.chat(model="tiny:twice")
    assert answer.status_code == 502
    assert answer.headers["x-should-retry"] == "false"


def test_every_choice_of_a_stream_is_closed_even_if_the_run_ended_early(serve):
    server = serve(Scripted({"draft": ["one", "two"], "critique": [errors.EngineError("down")] * 2}))
    chunks = events_of(server.chat(model="tiny:revise", stream=True, n=2).text)
    ends = [(c["choices"][0]["index"], c["choices"][0]["finish_reason"]) for c in chunks[:-1]]
    assert [end for end in ends if end[1]] == [(0, "stop"), (1, "length")]
    assert chunks[-2]["strop"]["degraded"] == "kept"


def test_a_request_waits_for_no_status_line_longer_than_a_keep_alive(serve):
    server = serve(Gated(Simulated()), sse_keep_alive_interval=0.05)
    with server.http.stream(
        "POST", "/v1/chat/completions", json={"model": "tiny", "messages": ASK, "stream": True}
    ) as response:
        assert response.status_code == 200
        first = next(response.iter_text())
    assert '"role":"assistant"' in first


def test_line_separators_in_a_text_cannot_break_an_event(serve):
    text = "one\u2028two\u2029three\x85four\r\nfive\n\ndata: six"
    server = serve(Scripted({"draft": [text]}))
    answer = server.chat(stream=True)
    assert all(line.startswith("data: ") for line in answer.text.splitlines() if line)
    said = [c["choices"][0]["delta"].get("content") or "" for c in events_of(answer.text)[:-1]]
    assert "".join(said) == text
