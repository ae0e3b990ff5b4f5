"""Clients that take their answers slowly, or not at all, and go on sending meanwhile."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable

import pytest

from .conftest import MODEL, Gateway, Mock, wait_until

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
# As much as the mock engine says: some 50 kB.
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 8000})


def long_answer(head: str = "") -> bytes:
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n{head}\r\n{BODY}"
    ).encode()


def connect(gateway: Gateway) -> socket.socket:
    """A connection whose kernel buffers hold next to nothing, on either side."""
    gateway.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # accepted sockets inherit it
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(gateway.address)
    return connection


def connections(gateway: Gateway) -> int:
    return sum(int(worker["connections"]) for worker in gateway.status["workers"])


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    while part := connection.recv(65536):
        answer += part
    return answer


def test_a_client_that_asks_and_never_reads_is_not_read_from_either(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock())
    with connect(gateway) as connection:
        connection.settimeout(3)
        wire, sent = HEALTH * 1000, 0
        with pytest.raises(TimeoutError):
            while sent < 30_000_000:
                sent += connection.send(wire)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_requests_behind_an_answer_that_is_taken_late_are_all_answered_in_order(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock())
    with connect(gateway) as connection:
        connection.sendall(long_answer() * 4 + HEALTH * 3 + long_answer("Connection: close\r\n"))
        time.sleep(1)
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 200 OK") == 8
    kinds = [part[:20] == b'{"status":"alive"}HT' for part in answer.split(b"\r\n\r\n")[1:]]
    assert kinds == [False] * 4 + [True] * 3 + [False]


def test_the_last_answer_on_a_connection_may_be_taken_slowly(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock())
    with connect(gateway) as connection:
        connection.sendall(long_answer("Connection: close\r\n"))
        answer = connection.recv(1000)
        time.sleep(4)
        head, _, body = (answer + read_all(connection)).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}\r\n".encode() in head
    assert json.loads(body)["choices"]


@pytest.mark.parametrize("head", ["", "Connection: close\r\n"])
def test_a_client_that_takes_nothing_more_is_cut_off_though_its_answer_is_complete(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], head: str
) -> None:
    gateway = make_gateway(make_mock(), timeouts={"keep_alive": 1.0, "client_stall": 1.0})
    with connect(gateway) as connection:
        connection.sendall(long_answer(head))
        wait_until(lambda: connections(gateway) == 1)
        wait_until(lambda: connections(gateway) == 0, what="the end of the connection")
        assert gateway.metric("tri_gateway_client_disconnects_total") == 1


def test_a_slow_client_is_not_a_stalled_one(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock(), timeouts={"client_stall": 1.5})
    with connect(gateway) as connection:
        connection.sendall(long_answer() * 3)
        answer = b""
        while answer.count(b"HTTP/1.1 200 OK") < 3:
            part = connection.recv(8_000)
            assert part, "cut off"
            answer += part
            time.sleep(0.2)
    assert gateway.metric("tri_gateway_client_disconnects_total", phase="stalled") == 0
