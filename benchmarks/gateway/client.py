"""The load: raw connections that write prepared bytes and count what comes back, in the harness's own process."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httptools


class BenchmarkError(Exception):
    """A response was wrong, or a program did not do its part: the figures are worth nothing."""


@dataclass(frozen=True, slots=True)
class Expect:
    """What each response must be: its SSE events, or none and a body that ends in ``tail``."""

    events: int = 0
    contains: bytes = b""


@dataclass(slots=True)
class Tally:
    """What one load has seen."""

    responses: int = 0
    events: int = 0
    first_token: list[float] = field(default_factory=list)
    """Seconds from writing the request to the first byte of a body."""
    started: int = 0
    """Streams with at least one event."""
    errors: list[str] = field(default_factory=list)


class Client(asyncio.Protocol):
    """One keep-alive connection with one request in flight; ``on_done`` decides what follows a response."""

    def __init__(
        self, request: bytes, expect: Expect, tally: Tally, on_done: Callable[[Client], None]
    ) -> None:
        self._request = request
        self._expect = expect
        self._tally = tally
        self._on_done = on_done
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._sent = 0.0
        self._events = 0
        self._newline = False
        self._body: list[bytes] = []
        self._begun = False
        self._idle = True
        self._left = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self) -> None:
        """Write the request; nothing once the load has ended."""
        if self._left:
            return
        if self._transport is None:
            self._tally.errors.append("the router closed an idle connection")
            return
        self._events = 0
        self._newline = False
        self._body.clear()
        self._begun = False
        self._idle = False
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def close(self) -> None:
        """Leave, whether or not a response is running."""
        self._idle = self._left = True
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._tally.errors.append(f"not HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._idle:
            self._tally.errors.append(f"connection lost inside a response ({error})")

    def on_body(self, body: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._tally.first_token.append(time.perf_counter() - self._sent)
            self._tally.started += 1
        if not self._expect.events:
            self._body.append(body)
            return
        # An event ends in two newlines, which a router may have cut apart.
        ends = body.count(b"\n\n") + (self._newline and body[:1] == b"\n")
        self._newline = body[-1:] == b"\n" and body[-2:] != b"\n\n"
        self._events += ends
        self._tally.events += ends

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._tally.errors.append(f"status {status}: {b''.join(self._body)[:200]!r}")
        elif self._events != self._expect.events:
            self._tally.errors.append(f"{self._events} events instead of {self._expect.events}")
        elif not self._expect.events and self._expect.contains not in b"".join(self._body):
            self._tally.errors.append(f"unexpected body {b''.join(self._body)[:200]!r}")
        self._tally.responses += 1
        self._idle = True
        self._on_done(self)


def render_request(path: str, host: str, key: str, body: bytes) -> bytes:
    """A request as a client library sends it: its headers, its bearer key, its JSON."""
    return (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\ncontent-type: application/json\r\n"
        f"user-agent: tri-serve-benchmark\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


async def connect(
    port: int, count: int, request: bytes, expect: Expect, tally: Tally, on_done: Callable[[Client], None]
) -> list[Client]:
    """Open connections, a few at a time, so that no accept queue overflows."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    while len(clients) < count:
        together = min(64, count - len(clients))
        opened = await asyncio.gather(
            *(
                loop.create_connection(lambda: Client(request, expect, tally, on_done), "127.0.0.1", port)
                for _ in range(together)
            )
        )
        clients.extend(client for _, client in opened)
    return clients
