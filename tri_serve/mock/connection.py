"""One client connection: HTTP/1.1 in, one answer after another out."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import httptools

from .pacer import Pacer
from .playing import Play

if TYPE_CHECKING:
    from .stats import Stats

_LINGER_ZERO = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Request:
    """One request as it was read."""

    target: bytes = b""
    method: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """By lower-case name; the last of several wins."""
    body: bytes = b""
    keep_alive: bool = True

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.split(b"?", 1)[0].decode("latin-1")


class Connection(asyncio.Protocol):
    """Reads requests and hands them to ``serve``, one at a time; knows what it is playing."""

    def __init__(self, serve: Callable[[Connection, Request], None], pacer: Pacer, stats: Stats) -> None:
        self._serve = serve
        self.pacer = pacer
        self.stats = stats
        self.transport: asyncio.Transport | None = None
        self.play: Play | None = None
        self.writable = True
        self._parser = httptools.HttpRequestParser(self)
        self._reading = Request()
        self._body: list[bytes] = []
        self._waiting: deque[Request] = deque()
        self._busy = False
        self._keep_alive = True

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface and not the base class.
        self.transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stats.connections += 1
        self.stats.connections_total += 1

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self.transport is not None and not self._busy:
                body = b"Invalid HTTP request received."
                self.transport.write(
                    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
                    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
                )
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.stats.connections -= 1
        self._waiting.clear()
        if self.play is not None:
            self.play.client_left()
            self.play = None

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.play is not None:
            self.play.client_reads_again()

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._reading = Request()
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._reading.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._reading.headers.get("expect", "").lower() == "100-continue" and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        request = self._reading
        request.method = self._parser.get_method().decode("latin-1")
        request.keep_alive = self._parser.should_keep_alive()
        request.body = b"".join(self._body)
        if self._busy:
            self._waiting.append(request)
        else:
            self._start(request)

    # What an answer calls.

    def finish(self) -> None:
        """The answer in hand is complete: serve what waits, or close where the client asked for that."""
        self.play = None
        if not self._keep_alive:
            self.close()
        elif self._waiting:
            # In the next turn, and busy until then: many pipelined requests must not nest.
            asyncio.get_running_loop().call_soon(self._start_waiting)
        else:
            self._busy = False

    def close(self) -> None:
        """FIN, after what was written."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """RST, at once."""
        if self.transport is not None:
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO
            )
            self.transport.abort()

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection after the answer in hand."""
        return self._keep_alive

    def _start_waiting(self) -> None:
        if self._waiting:
            self._start(self._waiting.popleft())

    def _start(self, request: Request) -> None:
        self._busy = True
        self._keep_alive = request.keep_alive
        self._serve(self, request)
