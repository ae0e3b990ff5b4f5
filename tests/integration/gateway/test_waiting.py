"""Requests for which no replica is ready: they wait for one, for a time that has an end."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from .conftest import MODEL, Gateway, Mock, chat, events_of, spawn_gateway, wait_until


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


@pytest.fixture
def deserted(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> Callable[..., tuple[Gateway, int]]:
    """A gateway whose only replica is dead, and the replica's port."""

    def make(**timeouts: float) -> tuple[Gateway, int]:
        mock = make_mock()
        gateway = make_gateway(mock, timeouts=timeouts)
        mock.kill()
        wait_until(lambda: not gateway.is_ready(), what="the gateway not ready")
        return gateway, mock.port

    return make


def wait_held(gateway: Gateway, count: int) -> None:
    wait_until(lambda: gateway.status["held"] == count, what=f"{count} held requests")


def ask(gateway: Gateway) -> socket.socket:
    """A client that has asked, and may leave."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}]}).encode()
    connection = socket.create_connection(gateway.address, timeout=10)
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    return connection


def test_a_request_without_a_replica_is_answered_by_the_one_that_comes(
    deserted: Callable[..., tuple[Gateway, int]],
    make_mock: Callable[..., Mock],
    threads: ThreadPoolExecutor,
) -> None:
    gateway, port = deserted(no_replica=30)
    asked: list[Future[requests.Response]] = [
        threads.submit(chat, gateway, stream=stream) for stream in (False, True)
    ]
    wait_held(gateway, 2)
    assert gateway.status["waiting"] == 2
    make_mock(port=port)
    assert asked[0].result(10).json()["choices"]
    assert events_of(asked[1].result(10))[-1] == b"data: [DONE]"
    assert gateway.status["held"] == 0
    assert gateway.metric("tri_gateway_holds_total") == 2
    assert gateway.metric("tri_gateway_hold_seconds_count", outcome="sent") == 2
    assert gateway.metric("tri_gateway_refusals_total") == 0


def test_a_gateway_that_knows_no_replica_yet_waits_to_be_told(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], threads: ThreadPoolExecutor
) -> None:
    gateway = make_gateway(timeouts={"no_replica": 30})
    asked = threads.submit(chat, gateway)
    wait_held(gateway, 1)
    gateway.put_roster(make_mock())
    assert asked.result(10).status_code == 200


def test_what_waited_is_spread_over_replicas_that_come_together(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    mocks = [make_mock() for _ in range(4)]
    gateway = make_gateway(timeouts={"no_replica": 30})
    with contextlib.ExitStack() as clients:
        connections = [clients.enter_context(ask(gateway)) for _ in range(80)]
        wait_held(gateway, 80)
        gateway.put_roster(*mocks)
        for connection in connections:
            assert connection.recv(12) == b"HTTP/1.1 200"
    served = [mock.stats["requests"] for mock in mocks]
    assert sum(served) == 80
    assert max(served) <= 32


def test_those_who_wait_leave_connections_for_others(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(timeouts={"no_replica": 30}, limits={"connections": 8})
    with contextlib.ExitStack() as clients:
        for _ in range(4):
            clients.enter_context(ask(gateway))
        wait_held(gateway, 4)
        late = clients.enter_context(ask(gateway))
        late.settimeout(3)
        assert late.recv(12) == b"HTTP/1.1 503"
        for _ in range(2):
            clients.enter_context(ask(gateway))
        assert requests.get(f"{gateway.url}/health", timeout=3).status_code == 200
        assert gateway.status["held"] == 4


def test_a_request_for_which_nobody_comes_is_refused_when_its_time_is_over(
    deserted: Callable[..., tuple[Gateway, int]],
) -> None:
    gateway, _ = deserted(no_replica=1)
    begun = time.monotonic()
    refused = chat(gateway)
    assert 1 <= time.monotonic() - begun < 3
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "no_ready_replica"
    assert refused.headers["retry-after"]
    assert gateway.metric("tri_gateway_hold_seconds_count", outcome="refused") == 1
    assert gateway.metric("tri_gateway_hold_seconds_sum", outcome="refused") >= 1


def test_without_time_to_wait_a_request_is_refused_at_once(
    deserted: Callable[..., tuple[Gateway, int]],
) -> None:
    gateway, _ = deserted(no_replica=0)
    begun = time.monotonic()
    assert chat(gateway).json()["error"]["code"] == "no_ready_replica"
    assert time.monotonic() - begun < 0.5
    assert gateway.metric("tri_gateway_holds_total") == 0


def test_a_request_whose_engine_died_waits_for_the_next_one_and_says_what_failed_if_none_comes(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], threads: ThreadPoolExecutor
) -> None:
    first, last = make_mock("--ttft-ms", "20000"), make_mock("--ttft-ms", "20000")
    gateway = make_gateway(first, timeouts={"no_replica": 3})
    asked = threads.submit(chat, gateway)
    wait_until(lambda: first.stats["running"] == 1)
    first.kill()
    wait_held(gateway, 1)
    gateway.put_roster(make_mock(port=first.port))
    assert asked.result(10).status_code == 200

    gateway.put_roster(last)
    asked = threads.submit(chat, gateway)
    wait_until(lambda: last.stats["running"] == 1)
    last.kill()
    refused = asked.result(10)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_failed"
    # The first request was sent again, this one was not.
    assert gateway.metric("tri_gateway_retries_total") == 1


def test_a_lone_replica_that_broke_one_request_is_asked_again_when_it_is_no_longer_doubted(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], threads: ThreadPoolExecutor
) -> None:
    mock = make_mock()
    gateway = make_gateway(mock)
    mock.fault("reset-before")
    asked = threads.submit(chat, gateway)
    wait_held(gateway, 1)
    mock.fault("")
    assert asked.result(10).status_code == 200
    assert gateway.metric("tri_gateway_retries_total") == 1


def test_the_engines_time_begins_when_it_is_asked(
    deserted: Callable[..., tuple[Gateway, int]],
    make_mock: Callable[..., Mock],
    threads: ThreadPoolExecutor,
) -> None:
    gateway, port = deserted(no_replica=30, first_byte=1)
    asked = threads.submit(chat, gateway)
    wait_held(gateway, 1)
    time.sleep(2)
    make_mock(port=port)
    assert asked.result(10).status_code == 200
    assert chat(gateway, fault="stall-before").status_code == 504


def test_a_client_that_leaves_while_it_waits_is_forgotten(
    deserted: Callable[..., tuple[Gateway, int]], make_mock: Callable[..., Mock]
) -> None:
    gateway, port = deserted(no_replica=30)
    with ask(gateway), ask(gateway):
        wait_held(gateway, 2)
    wait_held(gateway, 0)
    assert gateway.metric("tri_gateway_hold_seconds_count", outcome="left") == 2
    assert gateway.metric("tri_gateway_client_disconnects_total", phase="waiting") == 2
    mock = make_mock(port=port)
    gateway.wait_ready()
    assert mock.stats["requests"] == 0


def test_replicas_that_are_all_drained_on_purpose_are_not_waited_for(
    deserted: Callable[..., tuple[Gateway, int]],
    make_mock: Callable[..., Mock],
    threads: ThreadPoolExecutor,
) -> None:
    gateway, _ = deserted(no_replica=30)
    held = threads.submit(chat, gateway)
    wait_held(gateway, 1)
    mock = make_mock()
    gateway.put_roster(mock, draining=[mock])
    for refused in (held.result(5), chat(gateway)):
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "no_ready_replica"


def test_a_gateway_that_drains_still_serves_what_waits_and_refuses_the_rest_at_its_end(
    deserted: Callable[..., tuple[Gateway, int]],
    make_mock: Callable[..., Mock],
    threads: ThreadPoolExecutor,
) -> None:
    for comes in (True, False):
        gateway, port = deserted(no_replica=30, drain=10 if comes else 1)
        asked = threads.submit(chat, gateway)
        wait_held(gateway, 1)
        assert gateway.admin("POST", "/drain")[0] == 200
        if comes:
            make_mock(port=port)
            assert asked.result(10).status_code == 200
        else:
            refused = asked.result(10)
            assert refused.status_code == 503
            assert "shutting down" in refused.json()["error"]["message"]
        assert gateway.process.wait(10) == 0


def statuses_while(gateway: Gateway, during: Callable[[], None], clients: int = 8) -> list[int]:
    """What clients that go on without pause got, while and after ``during`` ran."""
    over = threading.Event()
    statuses: list[int] = []

    def client() -> None:
        while not over.is_set():
            statuses.append(chat(gateway).status_code)
        statuses.append(chat(gateway).status_code)

    with ThreadPoolExecutor(clients) as executor:
        running = [executor.submit(client) for _ in range(clients)]
        try:
            during()
        finally:
            over.set()
        for future in running:
            future.result()
    return statuses


@pytest.mark.parametrize("workers", [1, 2])
def test_a_lone_replica_that_is_killed_and_back_in_two_seconds_costs_no_request(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], workers: int
) -> None:
    mock = make_mock("--ttft-ms", "50")
    gateway = make_gateway(mock, workers=workers)

    def kill() -> None:
        time.sleep(0.3)
        mock.kill()
        time.sleep(2)
        make_mock("--ttft-ms", "50", port=mock.port)
        gateway.wait_ready()

    statuses = statuses_while(gateway, kill)
    assert set(statuses) == {200}
    assert gateway.metric("tri_gateway_hold_seconds_count", outcome="sent") >= 8
    assert gateway.status["held"] == 0


def test_a_first_process_that_has_just_begun_refuses_nobody(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], threads: ThreadPoolExecutor
) -> None:
    """Its workers accept before the roster has heard of any replica."""
    mock = make_mock()
    gateway = make_gateway(mock, workers=2)
    workers = [Path(f"/proc/{worker}") for worker in gateway.workers()]
    gateway.process.kill()
    gateway.process.wait()
    wait_until(lambda: not any(worker.exists() for worker in workers))
    mock.process.send_signal(signal.SIGSTOP)
    asked = [threads.submit(chat, gateway) for _ in range(8)]  # they wait in the queue of the socket
    gateway.process = spawn_gateway(gateway.directory, gateway.listener, gateway.config).process
    wait_until(lambda: bool(gateway.workers()))
    wait_held(gateway, 8)
    mock.process.send_signal(signal.SIGCONT)
    assert [answer.result(15).status_code for answer in asked] == [200] * 8
