"""Asking a server over HTTP, with answers streamed, and asking several strategies at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx

from strop.clients.bill import Bill, bill
from strop.clients.refine import Choice, refine

URL = "http://127.0.0.1:8000"
TIMEOUT = httpx.Timeout(600.0, connect=5.0)


class ServerError(Exception):
    """The server refused or failed. `status` is the HTTP status; None when there was no answer at all."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered; `bill` is None when the server sent none (it is no strop server)."""

    text: str
    model: str
    finish: str | None
    bill: Bill | None
    progress: tuple[str, ...] = ()


def _ignore(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Listener:
    """What to do with the words of an answer, and with progress, as they come."""

    text: Callable[[str], None] = _ignore
    progress: Callable[[str], None] = _ignore


@dataclass(slots=True)
class _Reader:
    """Puts an answer together from its chunks."""

    listener: Listener
    texts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    model: str = ""
    finish: str | None = None
    bill: Bill | None = None

    def read(self, chunk: Mapping[str, Any]) -> None:
        if error := chunk.get("error"):
            raise ServerError(error["message"], code=error.get("code"))
        self.model = chunk.get("model", self.model)
        self.bill = bill(chunk) or self.bill
        for choice in chunk.get("choices", ()):
            delta = choice.get("delta", {})
            self.finish = choice.get("finish_reason") or self.finish
            if note := delta.get("reasoning_content"):
                self.notes.append(note)
                self.listener.progress(note)
            if text := delta.get("content"):
                self.texts.append(text)
                self.listener.text(text)

    def answer(self) -> Answer:
        return Answer("".join(self.texts), self.model, self.finish, self.bill, tuple(self.notes))


async def ask(
    question: str | Sequence[Mapping[str, Any]],
    choice: Choice | str | None = None,
    *,
    url: str = URL,
    model: str | None = None,
    api_key: str | None = None,
    listener: Listener | None = None,
    **body: Any,
) -> Answer:
    """Ask one question (text, or OpenAI messages) with one strategy; further keywords go into the request's body.

    Without `model`, the first one that the server lists. Raises `ServerError`.
    """
    chosen = Choice(choice) if isinstance(choice, str) else choice or Choice()
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
    reader = _Reader(listener or Listener())
    async with _client(url, api_key) as client:
        try:
            request = {"model": model or await first_model(client), "messages": messages, "stream": True, **body}
            if chosen.strategy is not None or chosen.knobs:
                request |= refine(chosen.strategy, **chosen.knobs)
            async for chunk in _chunks(client, request):
                reader.read(chunk)
        except httpx.HTTPError as broken:
            raise ServerError(f"no answer from {url}: {broken or type(broken).__name__}") from broken
    return reader.answer()


async def compare(
    question: str,
    choices: Sequence[Choice | str],
    *,
    url: str = URL,
    model: str | None = None,
    api_key: str | None = None,
    listeners: Sequence[Listener] = (),
    **body: Any,
) -> list[Answer | ServerError]:
    """Ask one question with several strategies at once; answers (or errors) in the order of `choices`."""
    found: dict[int, Answer | ServerError] = {}

    async def one(i: int) -> None:
        listener = listeners[i] if listeners else None
        try:
            found[i] = await ask(question, choices[i], url=url, model=model, api_key=api_key, listener=listener, **body)
        except ServerError as failed:
            found[i] = failed

    async with anyio.create_task_group() as group:
        for i in range(len(choices)):
            group.start_soon(one, i)
    return [found[i] for i in range(len(choices))]


def _client(url: str, api_key: str | None) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    return httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT)


async def first_model(client: httpx.AsyncClient) -> str:
    """The first id of /v1/models."""
    response = await client.get("/v1/models")
    await _checked(response)
    return str(response.json()["data"][0]["id"])


async def _chunks(client: httpx.AsyncClient, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    async with client.stream("POST", "/v1/chat/completions", json=request) as response:
        await _checked(response)
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            if line.startswith("data: ") and data != "[DONE]":
                yield json.loads(data)


async def _checked(response: httpx.Response) -> None:
    if response.is_success:
        return
    await response.aread()
    try:
        error = response.json()["error"]
        message, code = error["message"], error.get("code")
    except (ValueError, KeyError, TypeError):
        message, code = response.text[:200] or response.reason_phrase, None
    raise ServerError(message, status=response.status_code, code=code)
