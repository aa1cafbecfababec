"""The trace log: whole records or none, whatever the disk, the queue or the operating system does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from threading import Event as Gate
from typing import Any

import anyio
import pytest

from strop.server.service import Ask, Principal, Selection
from strop.server.traffic import appender
from strop.server.traffic.appender import Appender
from strop.server.traffic.jsonl import TraceLog
from strop.strategies import CATALOGUE
from strop.strategies.kit import Chat, Message, Request, run
from strop.strategies.kit.trace import Trace, read
from strop.strategies.testing import Scripted

QUESTION = Chat((Message("user", "What is 2 + 2?\u2028 Größe?"),))


def asking(request: str) -> Ask:
    return Ask(request, QUESTION, Selection(CATALOGUE["direct"], {}), "tiny", principal=Principal("acme"))


async def serve(log: TraceLog, request: str, text: str = "4") -> Trace:
    trace = Trace()
    perform = Scripted({"draft": [text]})
    await run(Request(CATALOGUE["direct"], QUESTION), perform, observe=[log.observer(asking(request)), trace])
    return trace


def records(path: Path) -> dict[str, list[str]]:
    """Request to its lines; fails if the lines of one request do not stand together."""
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == "", "the last line is not finished"
    groups = [(name, list(group)) for name, group in groupby(lines, lambda line: json.loads(line)["request"])]
    assert len(dict(groups)) == len(groups), "the lines of one request are scattered"
    return dict(groups)


def whole(lines: list[str]) -> bool:
    kinds = [json.loads(line)["kind"] for line in lines]
    return kinds[0] == "started" and kinds[-1] == "finished"


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not true():  # noqa: ASYNC110 - the other side is a thread
            await anyio.sleep(0.005)


async def test_a_logged_request_reads_back_as_the_trace_of_its_run(tmp_path: Path) -> None:
    log = TraceLog(tmp_path / "new" / "log.jsonl")
    async with log.running():
        trace = await serve(log, "chatcmpl-1", 'four\u2028\n"4" ü')
    text = (tmp_path / "new" / "log.jsonl").read_text(encoding="utf-8")
    assert read(text.split("\n")) == trace.lines
    first = json.loads(text.split("\n")[0])
    assert (first["request"], first["tenant"], first["model"]) == ("chatcmpl-1", "acme", "tiny")
    assert abs(first["time"] - time.time()) < 60
    assert log.counts == {"written": 1, "dropped": 0, "failed": 0}


async def test_the_lines_of_concurrent_requests_are_not_mixed(tmp_path: Path) -> None:
    log = TraceLog(tmp_path / "log.jsonl")
    async with log.running(), anyio.create_task_group() as group:
        for i in range(50):
            group.start_soon(serve, log, f"chatcmpl-{i}")
    found = records(tmp_path / "log.jsonl")
    assert set(found) == {f"chatcmpl-{i}" for i in range(50)}
    assert all(map(whole, found.values()))


async def test_a_restarted_server_appends(tmp_path: Path) -> None:
    for name in ("a", "b"):
        log = TraceLog(tmp_path / "log.jsonl")
        async with log.running():
            await serve(log, name)
    assert list(records(tmp_path / "log.jsonl")) == ["a", "b"]


async def test_the_log_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    async with TraceLog(tmp_path / "log.jsonl").running():
        assert (tmp_path / "log.jsonl").stat().st_mode & 0o077 == 0


async def test_without_a_path_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = TraceLog(None)
    async with log.running():
        await serve(log, "a")
    assert log.counts == {}
    assert os.listdir(tmp_path) == []


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A disk that does nothing until the gate opens."""
    gate = Gate()
    real = Appender.append

    def append(self: Appender, record: bytes) -> None:
        gate.wait(10)
        real(self, record)

    monkeypatch.setattr(Appender, "append", append)
    return gate


async def test_a_full_queue_drops_whole_requests_counts_them_and_never_waits(tmp_path: Path, stuck: Gate) -> None:
    log = TraceLog(tmp_path / "log.jsonl", queued=3)
    async with log.running():
        began = time.perf_counter()
        for i in range(10):
            await serve(log, f"chatcmpl-{i}")
        assert time.perf_counter() - began < 1.0
        dropped = log.counts["dropped"]
        assert dropped in (6, 7)  # the writer holds one, the queue three
        stuck.set()
    found = records(tmp_path / "log.jsonl")
    assert len(found) == 10 - dropped == log.counts["written"]
    assert all(map(whole, found.values()))


async def test_closing_writes_everything_queued_even_when_cancelled(tmp_path: Path, stuck: Gate) -> None:
    log = TraceLog(tmp_path / "log.jsonl")
    with anyio.CancelScope() as scope:
        async with log.running():
            for i in range(5):
                await serve(log, f"chatcmpl-{i}")
            stuck.set()
            scope.cancel()
    assert len(records(tmp_path / "log.jsonl")) == 5


async def test_a_write_that_fails_half_way_is_taken_back_and_the_next_one_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = TraceLog(tmp_path / "log.jsonl")
    real = os.write
    broken = iter([True, True])

    def write(file: int, data: bytes) -> int:
        if b"chatcmpl-bad" not in data:
            return real(file, data)
        if next(broken, False) and len(data) > 100:
            return real(file, data[:100])
        raise OSError(28, "No space left on device")

    async with log.running():
        await serve(log, "chatcmpl-1")
        await until(lambda: log.counts["written"] == 1)
        monkeypatch.setattr(appender.os, "write", write)
        await serve(log, "chatcmpl-bad")
        await until(lambda: log.counts["failed"] == 1)
        await serve(log, "chatcmpl-3")
    assert list(records(tmp_path / "log.jsonl")) == ["chatcmpl-1", "chatcmpl-3"]
    assert "request chatcmpl-bad was not logged" in caplog.text


@pytest.mark.parametrize("torn", ["lines", "half a line", "half of the first key"])
async def test_what_a_crash_left_unfinished_is_cut_off_at_the_next_start(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    log = TraceLog(path)
    async with log.running():
        await serve(log, "a")
        await serve(log, "b")
    good = path.read_bytes()
    started, op, _ = good.replace(b'"request":"a"', b'"request":"c"').splitlines()[:3]
    left = {
        "lines": started + b"\n" + op + b"\n",
        "half a line": started + b"\n" + op[:50],
        "half of the first key": b'{"req',
    }
    path.write_bytes(good + left[torn])
    log = TraceLog(path)
    async with log.running():
        assert path.read_bytes() == good
        await serve(log, "d")
    assert list(records(path)) == ["a", "b", "d"]


async def test_a_torn_record_longer_than_a_chunk_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appender, "CHUNK", 64)
    path = tmp_path / "log.jsonl"
    async with (log := TraceLog(path)).running():
        await serve(log, "a")
    good = path.read_bytes()
    path.write_bytes(good + b'{"request":"b","kind":"note' + b"x" * 5000)
    async with TraceLog(path).running():
        assert path.read_bytes() == good


async def test_words_that_look_like_an_end_are_not_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"request":"a","kind":"noted","facts":{"kind":"finished"}}\n')
    async with TraceLog(path).running():
        assert path.read_text() == ""


async def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious.md"
    path.write_text("# My notes\nwithout an end")
    with pytest.raises(OSError, match=r"precious\.md is not a trace log"):
        async with TraceLog(path).running():
            pass
    assert path.read_text() == "# My notes\nwithout an end"


async def test_a_second_server_may_not_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    async with TraceLog(path).running():
        with pytest.raises(OSError, match="another running server"):
            async with TraceLog(path).running():
                pass
    async with TraceLog(path).running():
        pass


KILLED = """
import sys
from pathlib import Path
from strop.server.traffic.appender import Appender
line = '{"request":"%d","kind":"%s","text":"' + "x" * 20000 + '"}\\n'
with Appender(Path(sys.argv[1])) as log:
    sys.stdout.write("ready\\n"); sys.stdout.flush()
    for i in range(10**9):
        log.append((line % (i, "started") + line % (i, "op") + line % (i, "finished")).encode())
"""


@pytest.mark.parametrize("delay", [0.01, 0.05, 0.2])
def test_after_a_kill_every_record_in_the_file_is_whole(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "log.jsonl"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    with Appender(path):
        found = records(path)
    assert found
    assert list(found) == [str(i) for i in range(len(found))]
    assert all(len(lines) == 3 and whole(lines) for lines in found.values())


async def test_a_request_that_ends_when_the_log_is_closed_counts_as_dropped(tmp_path: Path) -> None:
    log = TraceLog(tmp_path / "log.jsonl")
    async with log.running():
        pass
    await serve(log, "late")
    assert log.counts["dropped"] == 1


def test_handing_a_long_trace_over_costs_the_event_loop_little(tmp_path: Path) -> None:
    """Handing over serialises nothing; the bound is generous, for busy machines."""
    log = TraceLog(tmp_path / "log.jsonl")

    async def hand_over() -> float:
        trace: Any = await serve(TraceLog(None), "x", "word " * 2000)
        async with log.running():
            began = time.process_time()
            for i in range(100):
                observer = log.observer(asking(f"chatcmpl-{i}"))
                for line in trace.lines:
                    observer(line)
            return (time.process_time() - began) / 100

    assert anyio.run(hand_over) < 0.01
