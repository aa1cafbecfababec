"""The Python client: choosing strategies, reading bills, asking and comparing over HTTP."""

from __future__ import annotations

import sys
from typing import Any

import openai
import pytest

from strop.clients import Answer, Bill, Choice, Listener, ServerError, ask, bill, compare, openai_client, refine

QUESTION = "What is 17 * 23?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


def test_refine_is_the_extra_body_of_the_sdk() -> None:
    assert refine("best_of_n", n=8, by="judge") == {"strop": {"strategy": "best_of_n", "n": 8, "by": "judge"}}
    assert refine(budget={"tokens": 10}) == {"strop": {"budget": {"tokens": 10}}}


def test_a_choice_is_read_from_the_command_line() -> None:
    choice = Choice.parse("best_of_n:n=8,weighted=false,by=judge")
    assert choice == Choice("best_of_n", {"n": 8, "weighted": False, "by": "judge"})
    assert choice.label == "best_of_n:n=8,weighted=False,by=judge"
    assert Choice.parse("direct") == Choice("direct")
    with pytest.raises(ValueError, match="name=value"):
        Choice.parse("best_of_n:8")


def test_the_bill_is_read_off_a_response_of_the_sdk(url: str) -> None:
    response = openai_client(url).chat.completions.create(
        model="simulated", messages=MESSAGES, extra_body=refine("best_of_n", n=4)
    )
    paid = bill(response)
    assert isinstance(paid, Bill)
    assert response.usage is not None
    assert paid.strategy == "best_of_n"
    assert paid.calls >= 4
    assert paid.completion_tokens == response.usage.completion_tokens
    assert paid.hidden_tokens == response.usage.completion_tokens_details.reasoning_tokens  # type: ignore[union-attr]
    assert paid.cost_usd == pytest.approx((paid.prompt_tokens + 2 * paid.completion_tokens) * 1e-6)
    assert paid == bill(response.model_dump())
    assert f"{paid.calls} calls" in str(paid)


def test_only_the_last_chunk_of_a_stream_has_the_bill(url: str) -> None:
    stream = openai_client(url).chat.completions.create(model="simulated", messages=MESSAGES, stream=True)
    bills = [bill(chunk) for chunk in stream]
    assert len(bills) > 1
    assert bills[-1] is not None
    assert set(bills[:-1]) == {None}


def test_a_client_for_one_strategy_uses_it_in_every_call(url: str) -> None:
    client = openai_client(url, strategy="self_consistency")
    paid = bill(client.chat.completions.create(model="simulated", messages=MESSAGES))
    assert paid is not None
    assert paid.strategy == "self_consistency"


def test_a_foreign_response_has_no_bill() -> None:
    assert bill({"choices": []}) is None
    assert bill({"strop": {"event": "started"}}) is None
    assert bill(object()) is None


def test_without_the_sdk_the_advice_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match="pip install openai"):
        openai_client()


async def test_an_answer_is_streamed_to_the_listener(url: str) -> None:
    words: list[str] = []
    notes: list[str] = []
    answer = await ask(QUESTION, Choice("best_of_n", {"n": 3}), url=url, listener=Listener(words.append, notes.append))
    assert "".join(words) == answer.text
    assert "391" in answer.text
    assert "".join(notes) == "".join(answer.progress) != ""
    assert (answer.model, answer.finish) == ("simulated", "stop")
    assert answer.bill is not None
    assert answer.bill.strategy == "best_of_n"


async def test_messages_and_further_fields_reach_the_server(url: str) -> None:
    answer = await ask(MESSAGES, url=url, model="simulated:vote-8", max_tokens=5)
    assert answer.bill is not None
    assert answer.bill.strategy == "self_consistency"


async def test_strategies_are_compared_in_the_given_order_and_an_error_is_one_of_the_results(url: str) -> None:
    results = await compare(QUESTION, ["direct", "nonsense", Choice("best_of_n", {"n": 2})], url=url)
    first, second, third = results
    assert isinstance(first, Answer)
    assert isinstance(second, ServerError)
    assert (second.status, second.code) == (400, "strategy_not_found")
    assert isinstance(third, Answer)
    assert third.bill is not None
    assert third.bill.calls >= 2


async def test_a_server_that_is_not_there_is_a_server_error_without_a_status() -> None:
    with pytest.raises(ServerError, match=r"no answer from http://127\.0\.0\.1:9") as failed:
        await ask(QUESTION, url="http://127.0.0.1:9")
    assert failed.value.status is None


def test_the_sdk_sees_the_errors_of_the_server(url: str) -> None:
    with pytest.raises(openai.BadRequestError, match="no such knob"):
        openai_client(url).chat.completions.create(
            model="simulated", messages=MESSAGES, extra_body=refine("best_of_n", m=1)
        )
