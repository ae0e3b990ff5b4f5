"""A mock engine as a process, and a client that shows every byte."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

KEY = "key-of-the-tests"


@dataclass
class Running:
    """A started mock engine."""

    port: int
    process: subprocess.Popen[str]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(
        self, value: dict[str, Any], path: str = "/v1/chat/completions", *, headers: str = ""
    ) -> socket.socket:
        """Send a request on a new connection and leave the reading to the test."""
        connection = self.connect()
        connection.sendall(self.request(value, path, headers=headers))
        return connection

    def request(
        self, value: dict[str, Any], path: str = "/v1/chat/completions", *, headers: str = ""
    ) -> bytes:
        body = json.dumps(value).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        head += f"{headers}content-length: {len(body)}"
        return head.encode() + b"\r\n\r\n" + body

    def chat(self, fault: str = "", *, stream: bool = True, **more: Any) -> socket.socket:
        """A chat of three tokens that meets ``fault``."""
        message = {"role": "user", "content": "안녕"}
        return self.ask({"messages": [message], "stream": stream, "max_tokens": 3, "mock": fault, **more})

    def get(self, path: str) -> Any:
        """The JSON of a route."""
        with self.connect() as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n\r\n".encode()
            )
            return json.loads(read_all(connection).partition(b"\r\n\r\n")[2])

    def stats_when(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Its counters as soon as they are as wanted; what they are after five seconds, if never."""
        deadline = time.monotonic() + 5
        while True:
            stats: dict[str, Any] = self.get("/mock/stats")
            if wanted(stats) or time.monotonic() > deadline:
                return stats
            time.sleep(0.01)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes; a reset raises ConnectionResetError."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """Everything up to and with ``end``."""
    data = b""
    while end not in data:
        piece = connection.recv(65536)
        assert piece, f"closed after {data!r}"
        data += piece
    return data


@pytest.fixture
def start_engine(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts mock engines with the options given; stops them after the test, and wants them to have complained of
    nothing.
    """
    processes: list[subprocess.Popen[str]] = []
    complaints = tmp_path / "stderr"

    def start(*options: str, key: str | None = KEY) -> Running:
        environment = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
        if key is not None:
            environment["VLLM_API_KEY"] = key
        with complaints.open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "tri_serve.mock", "--port", "0", *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        processes.append(process)
        assert process.stdout is not None
        found = re.search(r":(\d+)$", process.stdout.readline().strip())
        assert found is not None
        return Running(int(found[1]), process)

    yield start
    for process in processes:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
    assert complaints.read_text() == ""


@pytest.fixture
def engine(start_engine: Callable[..., Running]) -> Running:
    """A mock engine as it is by default, with a key."""
    return start_engine()
