"""A client that hangs up stops the engines: streaming, not streaming, and while it waits in the queue."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from strop.strategies.testing import Gated, Simulated

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
ASK = [{"role": "user", "content": "What is 6 times 7?"}]


def send(port: int, **fields: Any) -> socket.socket:
    """A request on a raw socket; the caller hangs up."""
    body = json.dumps({"model": "tiny", "messages": ASK, **fields}).encode()
    connection = socket.create_connection(("127.0.0.1", port), 5)
    connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
    return connection


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        part = connection.recv(65536)
        assert part, f"the server closed after {seen[-500:]!r}"
        seen += part
    return seen


@pytest.mark.parametrize("strop", [{}, {"strategy": "pick", "n": 6}, {"strategy": "revise"}])
@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_stops_all_engine_work(serve, doubles, stream, strop):
    server = serve(Simulated(length=5000, pace=0.005))
    with send(server.port, stream=stream, strop=strop) as connection:
        doubles.eventually(lambda: server.engine.in_flight == strop.get("n", 1))
        if stream:
            read_until(connection, b'"role"')
    doubles.eventually(lambda: server.engine.in_flight == 0)
    assert server.service.admission.active == 0
    started = server.engine.started
    time.sleep(0.05)
    assert server.engine.started == started, "the strategy went on after its client had left"


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_in_the_queue_gives_up_the_place_and_never_reaches_the_engine(serve, doubles, stream):
    gate = Gated(Simulated())
    server = serve(gate, max_concurrent_requests=1, max_queued_requests=1)
    with send(server.port) as first:
        doubles.eventually(lambda: server.engine.in_flight == 1)
        with send(server.port, stream=stream) as second:
            doubles.eventually(lambda: server.service.admission.waiting == 1)
            assert server.chat().status_code == 503, "the queue has room for one"
            second.shutdown(socket.SHUT_RDWR)
        doubles.eventually(lambda: server.service.admission.waiting == 0)
        assert server.engine.started == 1
        server.service.engine.inner = Simulated()
        first.shutdown(socket.SHUT_RDWR)
    doubles.eventually(lambda: server.engine.in_flight == 0)
    assert server.chat().status_code == 200


def test_a_child_that_waits_inside_the_engine_is_cancelled_too(serve, doubles):
    gate = Gated(Simulated())
    server = serve(gate)
    with send(server.port, strop={"strategy": "pick", "n": 8}):
        doubles.eventually(lambda: gate.in_flight == 8)
    doubles.eventually(lambda: gate.cancelled == 8)


def test_hanging_up_while_sending_the_body_leaves_no_trace(serve, doubles):
    server = serve(Simulated())
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(HEAD + b"content-length: 100\r\n\r\n{")
    assert server.chat().status_code == 200
    assert server.engine.in_flight == 0


def test_the_bill_of_a_client_that_left_reaches_the_metrics_as_499(serve, doubles):
    server = serve(Simulated(length=5000, pace=0.005))
    with send(server.port, stream=True) as connection:
        read_until(connection, b'"content":"')
    doubles.eventually(lambda: 'status="499"' in server.http.get("/metrics").text)
