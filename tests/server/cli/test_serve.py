"""`strop serve` as a process: the banner, the printed command, signals, the log."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from strop.server.commands.serve import ShortStartup
from strop.strategies.kit.trace import read


def curl_of(banner: str) -> str:
    return next(line.split("try", 1)[1].strip() for line in banner.splitlines() if "curl" in line)


def test_the_banner_says_where_what_and_how_and_its_curl_line_works(server: Any) -> None:
    assert re.search(r"strop \S+ is ready at http://127\.0\.0\.1:\d+$", server.banner, flags=re.MULTILINE)
    assert "simulated:best-of-8" in server.banner
    done = subprocess.run(curl_of(server.banner), shell=True, capture_output=True, text=True, timeout=20, check=False)
    answer = json.loads(done.stdout)
    assert "391" in answer["choices"][0]["message"]["content"]
    assert answer["model"] == "simulated"


def test_the_curl_line_of_a_server_with_a_key_uses_the_key(started: Any) -> None:
    key = "sk-strop-0123456789abcdef"
    server = started("--served-model-name", "mine", env={"STROP_API_KEY": key})
    command = curl_of(server.banner)
    assert key not in server.banner
    for secret, status in ((key, "mine"), ("wrong", "error")):
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, timeout=20, check=False, env={"STROP_API_KEY": secret}
        )
        assert status in done.stdout


def test_metrics_show_the_engine_the_queue_and_the_log(server: Any) -> None:
    server.chat()
    page = server.http.get("/metrics").text
    assert re.search(r'strop_engine_calls_total{role="policy"} [1-9]', page)
    assert "strop_queue_waiting 0.0" in page


def test_the_metrics_of_a_server_and_its_engine_agree(server: Any) -> None:
    for strategy in ("direct", "best_of_n", "self_consistency"):
        server.chat(strop={"strategy": strategy})
    page = server.http.get("/metrics").text

    def total(pattern: str) -> float:
        return sum(float(value) for value in re.findall(pattern + r" (\S+)$", page, flags=re.MULTILINE))

    generated = total(r'strop_tokens_total{.*type="(?:completion|refinement|judge)"}')
    assert generated == total(r"strop_engine_completion_tokens_total{.*}") > 0
    assert total(r'strop_tokens_total{.*type="prompt"}') == total(r"strop_engine_prompt_tokens_total{.*}") > 0
    assert total("strop_engine_calls_per_request_sum{.*}") == total("strop_engine_calls_total{.*}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish_and_ends_with_code_0(
    started: Any, tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log.jsonl"
    server = started("--latency", "0.6", "--trace-log", str(log))
    answers: list[dict[str, Any]] = []
    asking = Thread(target=lambda: answers.append(server.chat()))
    asking.start()
    _until(lambda: 'strop_requests_in_flight{strategy="direct"} 1.0' in server.http.get("/metrics").text)
    assert server.stop(number) == 0
    asking.join(5)
    assert answers[0]["choices"][0]["finish_reason"] == "stop"
    lines = log.read_text().split("\n")[:-1]
    assert {json.loads(line)["request"] for line in lines} == {answers[0]["id"]}
    assert read(lines)[-1].kind == "finished"


def test_a_second_signal_ends_at_once(started: Any) -> None:
    server = started("--latency", "30")
    asking = Thread(target=_ignore_errors, args=(server.chat,))
    asking.start()
    _until(lambda: 'strop_requests_in_flight{strategy="direct"} 1.0' in server.http.get("/metrics").text)
    began = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    server.process.send_signal(signal.SIGINT)
    server.wait()
    assert time.monotonic() - began < 8
    asking.join(5)


def test_a_taken_port_is_a_failure_with_code_1(started: Any) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(AssertionError, match=r"code 1:[^$]*address already in use"),
    ):
        started("--port", str(taken.getsockname()[1]))


def test_a_log_that_cannot_be_written_stops_the_server(started: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(AssertionError, match=r"code 1:[^$]*cannot start: .*notes\.md is not a trace log") as failed:
        started("--trace-log", str(tmp_path / "notes.md"))
    assert "Traceback" not in str(failed.value)


def test_only_failures_that_explain_themselves_lose_their_traceback() -> None:
    def told(text: str) -> str:
        record = logging.makeLogRecord({"msg": text})
        assert ShortStartup().filter(record)
        return record.getMessage()

    trace = "Traceback (most recent call last):\n  File x, line 1\n"
    assert told(trace + "OSError: no such model: 100%s\n") == "cannot start: no such model: 100%s"
    assert told(trace + "strop.strategies.kit.errors.EngineUnavailable: all down") == "cannot start: all down"
    assert told(trace + "KeyError: 'x'") == trace + "KeyError: 'x'"
    assert told("OSError: mentioned") == "OSError: mentioned"


def test_a_logged_request_replays_and_a_changed_one_names_the_field(started: Any, strop: Any, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    server = started("--trace-log", str(log))
    request = server.chat(strop={"strategy": "best_of_n", "n": 3})["id"]
    other = server.chat()["id"]
    server.stop()

    same = strop("replay", str(log), request)
    assert (same.exit_code, "as recorded" in same.stderr) == (0, True)
    assert json.loads(strop("replay", str(log), other, "--json").stdout)["same"] is True

    log.write_text(log.read_text().replace("What is 17 * 23?", "What is 17 * 24?", 1))
    lines = [json.loads(line) for line in log.read_text().split("\n")[:-1]]
    assert lines[0]["question"]["messages"][0]["content"] == "What is 17 * 24?"
    changed = strop("replay", str(log), request)
    assert changed.exit_code == 1
    assert (
        "chat.messages[0].content was 'What is 17 * 23?' when recorded and is 'What is 17 * 24?' now" in changed.stderr
    )
    assert json.loads(strop("replay", str(log), request, "--json").stdout)["same"] is False


def test_a_request_that_is_not_in_the_log_is_a_wrong_command(strop: Any, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("")
    assert strop("replay", str(tmp_path / "log.jsonl"), "chatcmpl-x").exit_code == 2
    assert strop("replay", str(tmp_path / "none.jsonl"), "chatcmpl-x").exit_code == 2


def _until(true: Any) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _ignore_errors(call: Any) -> None:
    with contextlib.suppress(httpx.HTTPError):
        call()
