"""The engine's side of an exchange: one keep-alive connection, its response parsed as far as relaying needs."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import httptools

from tri_serve.gateway.framing import (
    Body,
    ChunkedBody,
    CloseBody,
    EventFramer,
    FramingError,
    LengthBody,
    whole_event_chunks,
)
from tri_serve.gateway.replies import status_line

if TYPE_CHECKING:
    from tri_serve.gateway.exchange import Exchange
    from tri_serve.gateway.ledger import Replica

HEAD_LIMIT = 65_536
# Hop-by-hop headers (RFC 9110 section 7.6.1), and those that the gateway writes itself.
_NOT_RELAYED = frozenset(
    (
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"server",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
        b"x-tri-replica",
    )
)


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What relaying needs to know of an answer's head."""

    status: int
    lines: bytes
    """Status line and the headers that are relayed, each with its line end."""
    length: int | None
    chunked: bool
    streaming: bool
    """A 200 of server-sent events."""
    keep_alive: bool


class _HeadReader:
    """Collects one response head; httptools calls back into it."""

    __slots__ = ("chunked", "complete", "headers", "length", "sse")

    def __init__(self) -> None:
        self.headers: list[bytes] = []
        self.length: int | None = None
        self.chunked = False
        self.sse = False
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-length":
            self.length = int(value)
        elif name == b"transfer-encoding":
            self.chunked = True
        elif name == b"content-type" and value.startswith(b"text/event-stream"):
            self.sse = True
        if name not in _NOT_RELAYED:
            self.headers.append(b"%b: %b\r\n" % (name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


# An engine's heads repeat, but for their lengths and the second in their dates.
@lru_cache(maxsize=1024)
def parse_head(head: bytes) -> AnswerHead:
    """A complete response head. Raises FramingError if it is none."""
    reader = _HeadReader()
    parser = httptools.HttpResponseParser(reader)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        raise FramingError("the answer's head is not HTTP/1.1") from error
    if not reader.complete:
        raise FramingError("the answer's head is not HTTP/1.1")
    status = parser.get_status_code()
    return AnswerHead(
        status,
        status_line(status) + b"".join(reader.headers),
        reader.length,
        reader.chunked,
        reader.sse and status == 200,
        bool(parser.should_keep_alive()),
    )


class EngineConnection(asyncio.Protocol):
    """One connection to one engine; serves one exchange at a time, and is idle in the replica's list between."""

    __slots__ = (
        "_body",
        "_framer",
        "_head",
        "_keep_alive",
        "_loop",
        "_paused",
        "_raw",
        "exchange",
        "idle_since",
        "replica",
        "reused",
        "transport",
    )

    def __init__(self, replica: Replica, loop: asyncio.AbstractEventLoop) -> None:
        self.replica = replica
        self._loop = loop
        self.exchange: Exchange | None = None
        self.transport: asyncio.Transport
        self.reused = False
        self.idle_since = math.inf
        self._head = b""
        self._body: Body | None = None
        self._framer: EventFramer | None = None
        self._keep_alive = False
        self._paused = False
        # True while what comes next can go to the client byte by byte: between chunks, nothing held back.
        self._raw = False

    # -- what an exchange asks for

    def send(self, exchange: Exchange, data: bytes) -> None:
        """Send one request for ``exchange`` and give it every event of the answer."""
        self.exchange = exchange
        self._head = b""
        self._body = None
        self._framer = None
        self._raw = False
        self.transport.write(data)

    def pause(self) -> None:
        """Read no further: the client is behind."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def abandon(self) -> None:
        """Drop the connection at once: the engine sees the disconnect and stops generating."""
        self.exchange = None
        self.transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        self.exchange = None
        self.transport.close()

    @property
    def answered(self) -> bool:
        """Whether any byte of an answer to the present request has come."""
        return bool(self._head) or self._body is not None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # nobody asked: whatever this is, the connection cannot be used again
            self.transport.abort()
            return
        if self._raw:
            count = whole_event_chunks(data)
            if count:
                exchange.relay(data, count)
                return
        try:
            self._receive(data, exchange)
        except FramingError as error:
            self._fail("framing", str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self.exchange
        if exchange is None:
            if self in self.replica.idle:
                self.replica.idle.remove(self)
            return
        if self._body is None:
            self._fail("reset" if exc else "closed", "the engine closed the connection before answering")
            return
        try:
            self._body.finish()
        except FramingError as error:
            self._fail("reset" if exc else "closed", str(error))
        else:
            self._deliver(b"", exchange, complete=True)

    # -- the response

    def _receive(self, data: bytes, exchange: Exchange) -> None:
        while self._body is None:
            head = self._head + data
            end = head.find(b"\r\n\r\n")
            if end < 0:
                if len(head) > HEAD_LIMIT:
                    raise FramingError(f"a response head is longer than {HEAD_LIMIT} bytes")
                if not b"HTTP/1.1 ".startswith(head[:9]) and not head.startswith(
                    (b"HTTP/1.1 ", b"HTTP/1.0 ")
                ):
                    raise FramingError("the answer is not HTTP/1.1")
                self._head = head
                return
            data = head[end + 4 :]
            self._head = b""
            self._start_body(head[: end + 4], exchange)
            if self.exchange is not exchange:  # the exchange had enough of this answer
                return
        try:
            payload = self._body.feed(data)
        except FramingError as error:
            if error.decoded:
                self._deliver(error.decoded, exchange, complete=False)
            raise
        self._deliver(payload, exchange, complete=self._body.complete)

    def _start_body(self, head_bytes: bytes, exchange: Exchange) -> None:
        head = parse_head(head_bytes)
        if 100 <= head.status < 200:
            return
        if head.status in (204, 304):
            self._body = LengthBody(0)
        elif head.chunked:
            self._body = ChunkedBody()
        elif head.length is not None:
            self._body = LengthBody(head.length)
        else:
            self._body = CloseBody()
        self._keep_alive = head.keep_alive and not isinstance(self._body, CloseBody)
        if head.streaming:
            self._framer = EventFramer()
        exchange.head_received(head)

    def _deliver(self, payload: bytes, exchange: Exchange, *, complete: bool) -> None:
        framer = self._framer
        count = 0
        if framer is not None:
            before = framer.count
            payload = framer.feed(payload)
            count = framer.count - before
            if complete:
                payload += framer.rest()
        if complete:
            self._become_idle()
            exchange.completed(payload, count)
            return
        if payload:
            exchange.payload(payload, count)
        if framer is not None:
            body = self._body
            self._raw = (
                exchange.takes_raw_chunks
                and framer.empty
                and isinstance(body, ChunkedBody)
                and body.between_chunks
            )

    def _become_idle(self) -> None:
        self.exchange = None
        self.resume()  # a slow client's pause must not meet the next request
        body = self._body
        if self._keep_alive and body is not None and not body.excess and not self.replica.retired:
            self.reused = True
            self.idle_since = self._loop.time()
            self.replica.idle.append(self)
        else:
            self.transport.close()

    def _fail(self, reason: str, detail: str) -> None:
        exchange, self.exchange = self.exchange, None
        self.transport.abort()
        if exchange is not None:
            exchange.engine_failed(reason, detail, stale=self.reused and not self.answered)
