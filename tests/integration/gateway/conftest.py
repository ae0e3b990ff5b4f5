"""Real gateway processes in front of mock engines, on sockets that the test binds and hands down."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

MODEL = "tri-mock"


def wait_until(condition: Callable[[], bool], seconds: float = 10.0, what: str = "the condition") -> None:
    """Poll until true; fail the test otherwise."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.02)


class Mock:
    """One mock engine process."""

    def __init__(self, *flags: str, key: str | None = None, port: int = 0) -> None:
        environ = {**os.environ, **({"VLLM_API_KEY": key} if key else {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tri_serve.mock", "--port", str(port), "--model", MODEL, *flags],
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])

    @property
    def stats(self) -> dict[str, Any]:
        reply = requests.get(f"http://127.0.0.1:{self.port}/mock/stats", timeout=5)
        result: dict[str, Any] = reply.json()
        return result

    def fault(self, text: str) -> None:
        reply = requests.post(f"http://127.0.0.1:{self.port}/mock/fault", json={"fault": text}, timeout=5)
        reply.raise_for_status()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass
class Gateway:
    """One gateway: its process and the socket that the test holds."""

    process: subprocess.Popen[bytes]
    listener: socket.socket
    directory: Path
    config: dict[str, Any]

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()[:2]
        return host, port

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    def admin(self, method: str, path: str, document: Any = None) -> tuple[int, bytes]:
        body = b"" if document is None else json.dumps(document).encode()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(self.config["admin_socket"])
            connection.sendall(
                f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            )
            answer = b""
            while part := connection.recv(65536):
                answer += part
        head, _, rest = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), rest

    @property
    def status(self) -> dict[str, Any]:
        code, body = self.admin("GET", "/status")
        assert code == 200
        result: dict[str, Any] = json.loads(body)
        return result

    def metric(self, name: str, **labels: str) -> float:
        _, body = self.admin("GET", "/metrics")
        total = 0.0
        for line in body.decode().splitlines():
            if line.startswith(("#", f"{name}_bucket")) or not line.startswith(name):
                continue
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
                total += float(value)
        return total

    def put_roster(self, *mocks: Mock, draining: Collection[Mock] = ()) -> None:
        entries = replicas(*mocks)
        for entry, mock in zip(entries, mocks, strict=True):
            entry["draining"] = mock in draining
        code, body = self.admin("PUT", "/roster", {"replicas": entries})
        assert code == 200, body

    def end(self, replica: str) -> dict[str, int]:
        code, body = self.admin("POST", "/end", {"replica": replica})
        assert code == 200, body
        result: dict[str, int] = json.loads(body)
        return result

    def in_flight(self) -> list[int]:
        return [replica["in_flight"] for replica in self.status["replicas"]]

    def wait_ready(self) -> None:
        wait_until(self.is_ready, what="the gateway's readiness")

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return requests.get(f"{self.url}/ready", timeout=2).status_code == 200
        return False

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            for worker in self.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
        self.process.wait()
        self.listener.close()

    def workers(self) -> list[int]:
        with contextlib.suppress(OSError, AssertionError):
            return [worker["pid"] for worker in self.status["workers"] if worker["pid"]]
        return []


def replicas(*mocks: Mock) -> list[dict[str, Any]]:
    return [
        {"name": f"replica-{index}", "host": "127.0.0.1", "port": mock.port}
        for index, mock in enumerate(mocks)
    ]


def start_gateway(directory: Path, *mocks: Mock, client_key: str | None = None, **settings: Any) -> Gateway:
    """Bind, start, wait for readiness (unless there are no replicas)."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    config: dict[str, Any] = {
        "release": "test",
        "served_models": [MODEL],
        "admin_socket": str(directory / "admin.sock"),
        "replicas": replicas(*mocks),
        **settings,
    }
    if client_key is not None:
        config["client_key_hashes"] = {"tester": hashlib.sha256(client_key.encode()).hexdigest()}
    gateway = spawn_gateway(directory, listener, config)
    if mocks:
        gateway.wait_ready()
    else:
        wait_until(lambda: bool(gateway.workers()), what="a worker")
    return gateway


def spawn_gateway(directory: Path, listener: socket.socket, config: dict[str, Any]) -> Gateway:
    """A gateway process on ``listener``."""
    file = directory / "gateway.json"
    file.write_text(json.dumps(config))
    with (directory / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tri_serve.gateway"),
                *("--config", str(file), "--listen-fd", str(listener.fileno())),
            ],
            pass_fds=(listener.fileno(),),
            stderr=log,
        )
    return Gateway(process, listener, directory, config)


@pytest.fixture
def make_mock() -> Iterator[Callable[..., Mock]]:
    made: list[Mock] = []

    def make(*flags: str, **settings: Any) -> Mock:
        made.append(Mock(*flags, **settings))
        return made[-1]

    yield make
    for mock in made:
        mock.stop()


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    made: list[Gateway] = []

    def make(*mocks: Mock, **settings: Any) -> Gateway:
        directory = tmp_path / f"gateway-{len(made)}"
        directory.mkdir()
        made.append(start_gateway(directory, *mocks, **settings))
        return made[-1]

    yield make
    for gateway in made:
        gateway.stop()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Mock, Mock]]:
    """A gateway with two mock engines, shared by a module: for tests that leave it as it was."""
    mocks = (Mock(), Mock())
    gateway = start_gateway(tmp_path_factory.mktemp("gateway"), *mocks)
    yield gateway, *mocks
    gateway.stop()
    for mock in mocks:
        mock.stop()


def chat(
    gateway: Gateway, *, stream: bool = False, fault: str = "", tokens: int = 4, **extra: Any
) -> requests.Response:
    """One chat request; ``fault`` is the mock engine's for this request."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "안녕"}],
        "max_tokens": tokens,
        "stream": stream,
        **({"mock": fault} if fault else {}),
        **extra,
    }
    return requests.post(f"{gateway.url}/v1/chat/completions", json=body, stream=stream, timeout=30)


def events_of(response: requests.Response) -> list[bytes]:
    """The events of a stream; fails if the last one is cut."""
    body = response.content
    assert body.endswith(b"\n\n"), body[-200:]
    return body.split(b"\n\n")[:-1]
