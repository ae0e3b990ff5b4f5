"""Replicas that are drained: no new work, running requests go on, and the end that the deadline brings."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests

from .conftest import MODEL, Gateway, Mock, chat, events_of, wait_until

PATHS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2000},
    "/v1/completions": {"prompt": "x", "max_tokens": 2000},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2000},
    "/v1/responses": {"input": "x", "max_output_tokens": 2000},
}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


def begin(gateway: Gateway, path: str) -> requests.Response:
    """A long stream of which the first byte has come."""
    body = {"model": MODEL, "stream": True, **PATHS[path]}
    answer = requests.post(gateway.url + path, json=body, stream=True, timeout=30)
    assert answer.status_code == 200
    return answer


def test_a_draining_replica_gets_no_new_work_and_goes_on_with_what_it_has(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    draining, other = make_mock("--itl-ms", "30"), make_mock()
    gateway = make_gateway(draining)
    running = chat(gateway, stream=True, tokens=120)
    wait_until(lambda: gateway.in_flight() == [1])
    gateway.put_roster(draining, other, draining=[draining])
    wait_until(lambda: gateway.status["replicas"][1]["healthy"])
    for _ in range(6):
        assert chat(gateway).status_code == 200
    assert (draining.stats["requests"], other.stats["requests"]) == (1, 6)
    entry = gateway.status["replicas"][0]
    assert (entry["healthy"], entry["draining"], entry["in_flight"]) == (True, True, 1)
    assert gateway.metric("tri_gateway_replica_ready", replica="replica-0") == 0
    assert events_of(running)[-1] == b"data: [DONE]"
    # Taken back, it serves at once: nothing that was known of it is lost.
    gateway.put_roster(draining)
    assert chat(gateway).status_code == 200
    assert draining.stats["requests"] == 2


def test_with_every_replica_draining_new_requests_are_told_to_come_back(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    mock = make_mock()
    gateway = make_gateway(mock)
    assert gateway.status["ready"]
    gateway.put_roster(mock, draining=[mock])
    assert not gateway.status["ready"]
    wait_until(lambda: not gateway.is_ready(), what="/ready to turn")
    refused = chat(gateway)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "no_ready_replica"
    assert refused.headers["retry-after"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_end_of_a_drain_ends_streams_in_the_form_of_their_api(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], workers: int
) -> None:
    mock = make_mock("--itl-ms", "10")
    gateway = make_gateway(mock, workers=workers)
    streams = {path: begin(gateway, path) for path in PATHS}
    gateway.put_roster(mock, draining=[mock])
    assert gateway.end("replica-0") == {"ended": 4, "retried": 0, "refused": 0}
    for path, stream in streams.items():
        *whole, last = events_of(stream)
        assert whole
        for event in whole:
            assert json.loads(event.rpartition(b"data: ")[2])
        assert last.startswith(b"event: error\n") is (path in ("/v1/messages", "/v1/responses")), path
        error: dict[str, Any] = json.loads(last.rpartition(b"data: ")[2])
        assert "drained" in (error.get("error") or error)["message"]
        if path.endswith("completions"):
            assert error["error"]["code"] == "replica_drained"
    assert gateway.metric("tri_gateway_stream_failures_total", reason="drained") == 4
    assert gateway.in_flight() == [0]
    wait_until(lambda: mock.stats["running"] == 0, what="the engine's requests to end")


def test_the_end_of_a_drain_moves_what_has_sent_nothing_to_another_replica(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], threads: ThreadPoolExecutor
) -> None:
    slow, other = make_mock("--ttft-ms", "20000"), make_mock()
    gateway = make_gateway(slow)
    asked: list[Future[requests.Response]] = [
        threads.submit(chat, gateway, stream=stream) for stream in (False, True) * 4
    ]
    wait_until(lambda: slow.stats["running"] == 8)
    gateway.put_roster(slow, other, draining=[slow])
    wait_until(lambda: gateway.status["replicas"][1]["healthy"])
    assert gateway.end("replica-0") == {"ended": 0, "retried": 8, "refused": 0}
    answers = [future.result(10) for future in asked]
    assert all(answer.json()["choices"] for answer in answers[::2])
    assert {events_of(answer)[-1] for answer in answers[1::2]} == {b"data: [DONE]"}
    assert other.stats["requests"] == 8
    assert gateway.metric("tri_gateway_retries_total", reason="drained") == 8
    assert gateway.metric("tri_gateway_engine_failures_total") == 0


def test_the_end_of_a_drain_with_nobody_else_says_that_retrying_is_safe(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], threads: ThreadPoolExecutor
) -> None:
    mock = make_mock("--ttft-ms", "20000")
    gateway = make_gateway(mock)
    asked = [threads.submit(chat, gateway, stream=stream) for stream in (False, True)]
    wait_until(lambda: mock.stats["running"] == 2)
    gateway.put_roster(mock, draining=[mock])
    assert gateway.end("replica-0") == {"ended": 0, "retried": 0, "refused": 2}
    for future in asked:
        answer = future.result(10)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert answer.json()["error"]["code"] == "replica_drained"


def test_what_has_sent_nothing_waits_for_another_replica_that_is_down(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], threads: ThreadPoolExecutor
) -> None:
    slow, other = make_mock("--ttft-ms", "20000"), make_mock()
    gateway = make_gateway(slow, timeouts={"no_replica": 3})
    other.kill()
    for comes in (True, False):
        asked = threads.submit(chat, gateway)
        wait_until(lambda: gateway.in_flight()[0] == 1)
        gateway.put_roster(slow, other, draining=[slow])
        assert gateway.end("replica-0") == {"ended": 0, "retried": 1, "refused": 0}
        assert gateway.status["held"] == 1
        if comes:
            successor = make_mock(port=other.port)
            assert asked.result(10).status_code == 200
            successor.kill()
            gateway.put_roster(slow)
        else:
            assert asked.result(10).json()["error"]["code"] == "replica_drained"
    assert gateway.metric("tri_gateway_retries_total", reason="drained") == 1


def test_a_replica_ended_while_it_is_connected_to_costs_no_request(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    """Ends that come between any two steps of a request: each is answered whole by the other replica."""
    first, second = make_mock(), make_mock()
    gateway = make_gateway(first, second)
    wait_until(lambda: all(replica["healthy"] for replica in gateway.status["replicas"]))
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            statuses.append(chat(gateway).status_code)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for _ in range(20):
        gateway.put_roster(first, second, draining=[first])
        gateway.end("replica-0")
        gateway.put_roster(first, second)
    over.set()
    for client in clients:
        client.join()
    assert set(statuses) == {200}
    assert gateway.in_flight() == [0, 0]


def test_only_a_name_can_be_ended(pair: tuple[Gateway, Mock, Mock]) -> None:
    gateway, *_ = pair
    for document in ([], {}, {"replica": 3}):
        assert gateway.admin("POST", "/end", document)[0] == 400
    assert gateway.end("nobody") == {"ended": 0, "retried": 0, "refused": 0}
