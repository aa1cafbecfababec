"""More work than there is room for, and the end of the server in the middle of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest


@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_fit_is_sent_away_and_everything_else_is_answered(serve, tools, stream):
    server = serve(simulation={"latency": 0.3}, max_concurrent_requests=4, max_queued_requests=4)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda i: server.ask(f"Say exactly: w{i}", stream=stream), range(32)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503}
    assert statuses[200] >= 8
    for i, answer in enumerate(answers):
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "engine_overloaded"
            assert int(answer.headers["retry-after"]) >= 1
            assert "x-should-retry" not in answer.headers
        else:
            assert tools.said(tools.events_of(answer.text) if stream else answer.json()) == f"w{i}"
    assert server.idle
    assert server.ask().status_code == 200


def test_clients_that_leave_the_queue_make_room(serve, tools):
    server = serve(simulation={"latency": 1.0}, max_concurrent_requests=1, max_queued_requests=2)
    with server.raw():
        tools.eventually(lambda: server.counted.running == 1)
        with server.raw(), server.raw():
            tools.eventually(lambda: server.service.admission.waiting == 2)
            assert server.ask().status_code == 503
        tools.eventually(lambda: server.service.admission.waiting == 0)
    tools.eventually(lambda: server.idle)
    assert server.ask().status_code == 200


def test_a_request_with_more_prompts_than_slots_is_answered_and_never_fills_the_queue(serve, tools):
    server = serve(max_concurrent_requests=3, max_queued_requests=0, simulation={"latency": 0.01})
    body = server.ask(to="text", prompt=[f"Say exactly: w{i}" for i in range(10)]).json()
    assert [choice["text"] for choice in body["choices"]] == [f"w{i}" for i in range(10)]


def test_a_signal_during_work_lets_every_running_answer_end() -> None:
    """A real process: streams and whole answers that have begun are finished, and the process ends by itself."""
    command = [sys.executable, "-m", "strop.server", "serve", "--engine", "simulated", "--port", "0"]
    command += ["--tokens-per-second", "40"]
    environment = {**os.environ, "COLUMNS": "200"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        url = next(line for line in process.stderr if "is ready at" in line).split()[-1]
        with httpx.Client(base_url=url, trust_env=False, timeout=20) as http, ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(_ask, http, bool(i % 2)) for i in range(6)]
            _until(lambda: 'strop_engine_running{role="policy"} 6.0' in http.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            for i, answer in enumerate(found.result() for found in answers):
                assert answer.status_code == 200
                assert ("[DONE]" in answer.text) if i % 2 else ("boxed" in answer.text)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)
        if process.stderr is not None:
            process.stderr.close()


def _ask(http: httpx.Client, stream: bool) -> httpx.Response:
    body = {"model": "simulated", "messages": [{"role": "user", "content": "What is 20 + 22?"}], "stream": stream}
    return http.post("/v1/chat/completions", json=body)


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
