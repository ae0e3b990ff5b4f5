"""A gateway and two mock engines, read while clients ask them: what they say against what the clients saw."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gevent
import gevent.socket
import pytest
import requests

from tri_serve.load.client_health import HealthWatch
from tri_serve.load.server_side.changes import whole
from tri_serve.load.server_side.scrape import Fetch, Scraper, Source, connecting
from tri_serve.load.server_side.summary import ClientSide, describe

TTFT_MS = 60.0
TOKENS = 10


@dataclass
class Fleet:
    """One gateway in front of two mock engines."""

    url: str
    sources: tuple[Source, ...]
    engines: list[subprocess.Popen[str]]


def _engine() -> tuple[subprocess.Popen[str], int]:
    argv = [sys.executable, "-m", "tri_serve.mock", "--port", "0", "--ttft-ms", str(TTFT_MS), "--itl-ms", "5"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline().rsplit(":", 1)[1])


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(10)
    if process.stdout is not None:
        process.stdout.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    engines, ports = zip(*(_engine() for _ in range(2)), strict=True)
    admin = _free_port()
    replicas = [{"name": f"replica-{n}", "host": "127.0.0.1", "port": port} for n, port in enumerate(ports)]
    config = {
        "release": "test",
        "served_models": ["tri-mock"],
        "admin_socket": str(tmp_path / "admin.sock"),
        "admin_port": admin,
        "replicas": replicas,
    }
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps(config))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = str(listener.fileno())
        gateway = subprocess.Popen(
            [sys.executable, "-m", "tri_serve.gateway", "--config", str(file), "--listen-fd", fd],
            pass_fds=(listener.fileno(),),
            stderr=subprocess.DEVNULL,
            text=True,
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            deadline = time.monotonic() + 20
            while requests.get(f"{url}/ready", timeout=20).status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            sources = [Source("gateway", "gateway", f"http://127.0.0.1:{admin}/metrics")]
            sources += [
                Source(f"replica-{n}", "engine", f"http://127.0.0.1:{port}/metrics")
                for n, port in enumerate(ports)
            ]
            yield Fleet(url, tuple(sources), list(engines))
        finally:
            gateway.terminate()
            gateway.wait(15)
            for engine in engines:
                _end(engine)


def ask(url: str, count: int) -> list[float]:
    """Milliseconds to each stream's first event."""

    def one(number: int) -> float:
        body = {
            "model": "tri-mock",
            "stream": True,
            "max_tokens": TOKENS,
            "messages": [{"role": "user", "content": f"question {number}"}],
        }
        began = time.perf_counter()
        with requests.post(f"{url}/v1/chat/completions", json=body, stream=True, timeout=30) as answer:
            events = (line for line in answer.iter_lines(chunk_size=1) if b"choices" in line)
            next(events)
            first = time.perf_counter() - began
            assert list(events)
        return first * 1_000

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, range(count)))


FETCHES: dict[str, Callable[[], Fetch | None]] = {
    "threads": lambda: None,
    "gevent": lambda: connecting(gevent.socket.create_connection),
}


@pytest.mark.parametrize("kind", FETCHES)
def test_what_the_servers_say_agrees_with_what_their_clients_saw(fleet: Fleet, kind: str) -> None:
    scraper = Scraper(fleet.sources, FETCHES[kind]())
    scraper.snapshot(keep=True)
    times = ask(fleet.url, 12)
    scraper.snapshot(keep=True)
    history = scraper.history
    mean = sum(times) / len(times)
    side = describe(history, whole(history), ClientSide(mean, len(times), len(times) * TOKENS))
    assert side is not None
    assert side.missing == ()
    assert side.restarts == ()
    parts = {part.name: part.mean_ms for part in side.ttft_split}
    assert list(parts) == ["client", "gateway", "queue", "prefill", "rest"]
    assert sum(parts.values()) == pytest.approx(mean)
    # The mock engine is never early; how late it is depends on what else the machine does.
    assert parts["prefill"] >= TTFT_MS
    assert parts["queue"] == 0
    assert parts["rest"] == pytest.approx(0, abs=0.01)
    assert parts["client"] > 0
    # The mock engine stamps what it has written: on a busy machine the gateway may have it before that.
    assert parts["gateway"] > -0.25 * TTFT_MS
    assert (side.client_tokens, side.server_tokens) == (120, 120)
    assert sum(one.requests or 0 for one in side.engines) == 12
    assert side.remarks == ()


def test_an_engine_that_dies_is_told_and_the_rest_is_still_read(fleet: Fleet) -> None:
    scraper = Scraper(fleet.sources)
    scraper.snapshot(keep=True)
    ask(fleet.url, 4)
    _end(fleet.engines[1])
    scraper.snapshot(keep=True)
    side = describe(scraper.history, whole(scraper.history), ClientSide(70.0, 4, 40))
    assert side is not None
    assert side.sources == ("gateway", "engine replica-0")
    (missing,) = side.missing
    assert missing.startswith("engine replica-1: 1 of 2 times")
    assert side.server_tokens is None


def test_a_loop_that_is_blocked_is_seen_as_late() -> None:
    with HealthWatch("one") as watch:
        watcher = gevent.spawn(watch.run, gevent.sleep)
        gevent.sleep(0.2)
        watch.begin()
        gevent.sleep(0.1)
        time.sleep(0.25)  # blocks the loop as slow code would
        gevent.sleep(0.1)
        health = watch.report()
        watch.stop()
        watcher.join(5)
    assert watcher.successful()
    assert health.loop_lag_max_ms > 200
    assert health.loop_lag_p99_ms > 150
    assert health.loop_lag_samples >= 30
