"""A server that answers every request with the same bytes at the same times, and says how late it was itself.

Started as ``python -m benchmarks.load.replay PORT-OR-0``, with the script as JSON on its first line of input. It
prints its port, serves until its input ends, and prints what it measured of itself. One process, no library, one
``send`` an event. Waiting is ``select`` on the epoll descriptor, which is exact to the kernel's timer slack of
50 µs, where epoll's own timeout is exact to a millisecond.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: replay\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
MODEL = "replayed"


@dataclass(frozen=True, slots=True)
class Step:
    """What is written, and how many seconds after the request was read."""

    at: float
    data: bytes


def chunk(data: bytes) -> bytes:
    """One chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event, as vLLM writes it."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def chat_event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """A chunk of a chat completion, with vLLM 0.32's fields in their order."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
    return event({**_STAMP, "choices": [choice]})


def usage_event(prompt: int, completion: int) -> bytes:
    """What ``stream_options.include_usage`` asks for."""
    usage = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    return event({**_STAMP, "choices": [], "usage": usage})


_STAMP = {"id": "chatcmpl-replay", "object": "chat.completion.chunk", "created": 1767225600, "model": MODEL}
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def chat_script(ttft: float, itl: float, tokens: int) -> list[Step]:
    """A chat of one event a token, at ``ttft + k · itl`` seconds; the role event comes with the first token."""
    steps = [Step(0.0, _HEAD), Step(ttft, chunk(chat_event({"role": "assistant", "content": ""})))]
    for k in range(tokens):
        last = k == tokens - 1
        text = ("word ", "단어 ", "語 ")[k % 3]
        steps.append(Step(ttft + k * itl, chunk(chat_event({"content": text}, "length" if last else None))))
    end = ttft + (tokens - 1) * itl
    return [*steps, Step(end, chunk(usage_event(16, tokens)) + chunk(DONE) + END)]


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""
    playing: bool = False


class _Server:
    def __init__(self, port: int, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._poll.register(sys.stdin, select.EPOLLIN)
        self._connections: dict[int, _Connection] = {}
        # (due, order, descriptor, connection, begun, step)
        self._due: list[tuple[float, int, int, _Connection, float, int]] = []
        self._order = 0
        self.requests = 0
        self.lateness: deque[float] = deque(maxlen=1_000_000)

    def serve(self) -> None:
        while True:
            wait = None if not self._due else max(0.0, self._due[0][0] - time.perf_counter())
            select.select([self._poll], [], [], wait)
            for descriptor, events in self._poll.poll(0):
                if descriptor == sys.stdin.fileno():
                    return
                if descriptor == self._listener.fileno():
                    self._accept()
                elif events & select.EPOLLOUT:
                    self._write(descriptor, self._connections[descriptor], b"")
                else:
                    self._read(descriptor, self._connections[descriptor])
            self._play()

    def _accept(self) -> None:
        for _ in range(256):
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[accepted.fileno()] = _Connection(accepted)
            self._poll.register(accepted, select.EPOLLIN)

    def _read(self, descriptor: int, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._forget(descriptor, connection)
            return
        now = time.perf_counter()
        received = connection.received
        received += data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(received[:end]).lower()
        length = int((head + b"\r\ncontent-length: 0").partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(received) < end + 4 + length:
            return
        received.clear()
        if head.startswith(b"get "):
            body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
            kind = b"content-type: application/json\r\n"
            answer = b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (kind, len(body), body)
            self._write(descriptor, connection, answer)
            return
        self.requests += 1
        self._plan(descriptor, connection, now, 0)

    def _plan(self, descriptor: int, connection: _Connection, begun: float, step: int) -> None:
        self._order += 1
        due = begun + self._steps[step].at
        heapq.heappush(self._due, (due, self._order, descriptor, connection, begun, step))

    def _play(self) -> None:
        """Write what is due. Steps of one time are written one after the other, each by itself."""
        now = time.perf_counter()
        while self._due and self._due[0][0] <= now:
            due, _, descriptor, connection, begun, step = heapq.heappop(self._due)
            if self._connections.get(descriptor) is not connection:
                continue
            self._write(descriptor, connection, self._steps[step].data)
            self.lateness.append(time.perf_counter() - due)
            if step + 1 < len(self._steps):
                self._plan(descriptor, connection, begun, step + 1)

    def _write(self, descriptor: int, connection: _Connection, data: bytes) -> None:
        data = connection.unsent + data
        try:
            sent = connection.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._forget(descriptor, connection)
            return
        if bool(connection.unsent) != (sent < len(data)):
            more = select.EPOLLOUT if sent < len(data) else 0
            self._poll.modify(connection.socket, select.EPOLLIN | more)
        connection.unsent = data[sent:]

    def _forget(self, descriptor: int, connection: _Connection) -> None:
        del self._connections[descriptor]
        self._poll.unregister(connection.socket)
        connection.socket.close()


class Replay:
    """The server as a process of its own; a context manager. ``report`` holds what it said of itself at the end."""

    def __init__(self, steps: Iterable[Step], cores: set[int] | None = None) -> None:
        self._steps = list(steps)
        self._cores = cores
        self.report: dict[str, float] = {}
        self.port = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Replay:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load.replay", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        if self._cores:
            os.sched_setaffinity(self._process.pid, self._cores)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        script = [[step.at, step.data.decode("latin-1")] for step in self._steps]
        self._process.stdin.write(json.dumps(script) + "\n")
        self._process.stdin.flush()
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_error: object) -> None:
        said, _ = self._process.communicate()
        self.report = json.loads(said) if said else {}


def main() -> None:
    """Serve what the first line of input says."""
    script = json.loads(sys.stdin.readline())
    server = _Server(int(sys.argv[1]), [Step(at, data.encode("latin-1")) for at, data in script])
    print(server.port, flush=True)
    server.serve()
    lateness = sorted(server.lateness)
    print(
        json.dumps(
            {
                "requests": server.requests,
                "cpu_seconds": time.process_time(),
                "late_p50_ms": 1e3 * lateness[len(lateness) // 2] if lateness else 0.0,
                "late_p99_ms": 1e3 * lateness[len(lateness) * 99 // 100] if lateness else 0.0,
                "late_max_ms": 1e3 * lateness[-1] if lateness else 0.0,
            }
        )
    )


if __name__ == "__main__":
    main()
