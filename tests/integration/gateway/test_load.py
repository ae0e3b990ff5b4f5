"""The load that engines report: shown in the status, and heeded by the workers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
import requests

from .conftest import MODEL, Gateway, Mock, chat, events_of, wait_until


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(48) as executor:
        yield executor


def load_of(gateway: Gateway, index: int = 0) -> dict[str, Any]:
    load: dict[str, Any] | None = gateway.status["replicas"][index]["load"]
    return load or {}


def take_stream(gateway: Gateway, tokens: int) -> bytes:
    """The last event of one stream."""
    return events_of(chat(gateway, stream=True, tokens=tokens))[-1]


def ask_directly(mock: Mock, tokens: int) -> None:
    """A request that goes past the gateway."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": tokens,
        "stream": True,
    }
    requests.post(f"http://127.0.0.1:{mock.port}/v1/chat/completions", json=body, timeout=60)


def test_the_status_shows_what_an_engine_says_of_its_load(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], threads: ThreadPoolExecutor
) -> None:
    mock = make_mock("--itl-ms", "20")
    gateway = make_gateway(mock)
    asked = [threads.submit(take_stream, gateway, 200) for _ in range(3)]
    wait_until(lambda: load_of(gateway).get("running") == 3, what="the load")
    wait_until(lambda: (load_of(gateway)["tokens_per_second"] or 0) > 75, what="the rate")
    load = load_of(gateway)
    assert load["tokens_per_second"] < 200
    assert load["waiting"] == 0
    assert 0 < load["kv_cache_usage"] < 1
    assert 0 <= load["age_seconds"] < 3
    assert gateway.metric("tri_gateway_replica_running", replica="replica-0") == 3
    for future in asked:
        future.result(30)
    wait_until(lambda: load_of(gateway)["requests_finished"] == 3, what="the finished requests")
    mock.kill()
    wait_until(lambda: load_of(gateway) == {}, what="the load of a dead engine to go")


class Plain(BaseHTTPRequestHandler):
    """An engine that knows /health alone."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_an_engine_without_metrics_has_no_load_and_is_ready(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway()
    with ThreadingHTTPServer(("127.0.0.1", 0), Plain) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        address = {"name": "plain", "host": "127.0.0.1", "port": server.server_port}
        assert gateway.admin("PUT", "/roster", {"replicas": [address]})[0] == 200
        wait_until(lambda: Plain.asked["/metrics"] >= 2, what="two scrapes")
        (replica,) = gateway.status["replicas"]
        server.shutdown()
        serving.join()
    assert replica["healthy"]
    assert replica["load"] is None


def test_requests_that_others_sent_are_heeded(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], threads: ThreadPoolExecutor
) -> None:
    busy, free = make_mock("--itl-ms", "20"), make_mock("--itl-ms", "20")
    gateway = make_gateway(busy, free)
    beside = [threads.submit(ask_directly, busy, 400) for _ in range(8)]
    wait_until(lambda: load_of(gateway).get("running") == 8, what="the load")
    time.sleep(0.3)  # until the worker has been told
    asked = [threads.submit(take_stream, gateway, 100) for _ in range(6)]
    wait_until(lambda: sum(gateway.in_flight()) == 6)
    assert gateway.in_flight() == [0, 6]
    for future in (*asked, *beside):
        future.result(30)


def test_workers_do_not_herd(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], threads: ThreadPoolExecutor
) -> None:
    mocks = [make_mock("--itl-ms", "10") for _ in range(3)]
    gateway = make_gateway(*mocks, workers=2)
    wait_until(lambda: all(replica["load"] for replica in gateway.status["replicas"]), what="the loads")
    assert set(threads.map(lambda _: take_stream(gateway, 60), range(360))) == {b"data: [DONE]"}
    # 48 at a time on three replicas: 16 each; by chance alone the fullest would have 26 at some time.
    fullest = max(mock.stats["max_running"] for mock in mocks)
    assert fullest <= 21, [mock.stats["max_running"] for mock in mocks]
    assert min(mock.stats["requests"] for mock in mocks) > 80
