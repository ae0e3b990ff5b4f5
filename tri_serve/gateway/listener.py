"""The client's side: one connection, its requests taken one after the other, each bounded in bytes and time."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, cast

import httptools

from tri_serve.gateway import replies
from tri_serve.gateway.exchange import Exchange, State
from tri_serve.gateway.replies import Refusal
from tri_serve.gateway.request import KNOWN_HEADERS, RepeatedHead, Request, head_too_large
from tri_serve.observe import names

if TYPE_CHECKING:
    from tri_serve.gateway.worker import Worker

# A refused request may still be sending its body: it is read and dropped for this long, since closing at once
# would reset the connection and take the answer with it.
LINGER_SECONDS = 2.0
# A refused body up to this size is awaited, so that the connection can be used again.
AWAITED_BODY_BYTES = 65_536
# What a client may have written before it stops being sent more: a screenful of events.
WRITE_BUFFER_BYTES = 65_536


class Phase(Enum):
    """What a client connection is waiting for."""

    IDLE = 0
    HEAD = 1
    BODY = 2
    EXCHANGE = 3
    LINGER = 4


class ClientConnection(asyncio.Protocol):
    """One client connection. httptools calls back into it while it feeds."""

    __slots__ = (
        "_exchange",
        "_fed",
        "_headers",
        "_held",
        "_incoming",
        "_last_is_in",
        "_parser",
        "_paused",
        "_phase",
        "_queue",
        "_repeated",
        "_served",
        "_unsent",
        "_verified",
        "_worker",
        "deadline",
        "transport",
    )

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._parser = httptools.HttpRequestParser(self)
        self._phase = Phase.IDLE
        self._incoming: Request | None = None
        # Requests that came whole while an earlier one was being answered, or its answer was still being taken.
        # Reading stops while there are any.
        self._queue: deque[Request] = deque()
        self._held = False
        self._exchange: Exchange | None = None
        self._headers: dict[bytes, bytes] = {}
        self._repeated: RepeatedHead | None = None
        # The last request that was served as it came, without waiting in the queue.
        self._served: Request | None = None
        # Bytes since the parser last reported anything that it does not collect.
        self._fed = 0
        # The request that asked for the connection's end is whole: whatever follows it is nobody's.
        self._last_is_in = False
        self._paused = False
        # What a client that is behind had not taken when that was last looked at.
        self._unsent = math.inf
        self._verified = b""
        self.deadline = math.inf
        self.transport: asyncio.Transport

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        worker = self._worker
        if len(worker.clients) >= worker.limits.connections:
            worker.metrics.count(names.REFUSALS, "connections")
            refusal = Refusal(
                503,
                "connections",
                f"all {worker.limits.connections} client connections of this worker are taken",
                kind="service_unavailable",
                close=True,
            )
            self.transport.write(self._answer(None, refusal))
            self.transport.close()
            self._phase = Phase.LINGER
            return
        worker.clients.add(self)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._wait(Phase.IDLE, worker.timeouts.keep_alive)

    @property
    def _lingers(self) -> bool:
        return self._phase is Phase.LINGER

    def data_received(self, data: bytes) -> None:
        if self._lingers or self._last_is_in:
            return
        fresh = self._phase is Phase.IDLE and self._incoming is None and not self._paused
        if fresh:
            if self._repeated is not None:
                request = self._repeated.match(data, self._worker.limits.body_bytes)
                if request is not None:
                    self._serve(request)
                    return
            self._wait(Phase.HEAD, self._worker.timeouts.head)
        # The parser reports a header only when it is whole, in trailers, too: bound what it may be collecting.
        self._fed += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            if not self._lingers and not self._last_is_in:  # else it stands behind the last request
                self._stop_reading(
                    Refusal(400, "bad_http", f"this is not HTTP/1.1: {error}", code="bad_request", close=True)
                )
            return
        served, self._served = self._served, None
        if fresh and served is not None and served.refusal is None and not self._queue:
            self._repeated = RepeatedHead.learn(data, served)
        self._bound_incoming()
        if self._queue:
            self._hold()

    def eof_received(self) -> None:
        """The client will send no more. It has left, or half-closed, which no OpenAI client does: end it."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.client_gone(self)
        self.deadline = math.inf
        self._queue.clear()
        self._incoming = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def pause_writing(self) -> None:
        self._paused = True
        if self._exchange is not None:
            self._exchange.pause()
        self._give_time_to_take()

    def resume_writing(self) -> None:
        self._paused = False
        self._unsent = math.inf
        if self._exchange is not None:
            self._exchange.resume()
            self.deadline = self._worker.loop.time() + self._worker.timeouts.silence
        elif self._phase is not Phase.LINGER:
            self._await_next()

    # -- what httptools calls while it feeds

    def on_message_begin(self) -> None:
        self._incoming = request = Request()
        request.headers = self._headers = {}

    def on_url(self, url: bytes) -> None:
        request = cast("Request", self._incoming)
        request.target += url
        request.head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        request = cast("Request", self._incoming)
        request.head_bytes += len(name) + len(value) + 4
        name = name.lower()
        if name in KNOWN_HEADERS:
            if name in self._headers:
                request.repeated = name
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        request = cast("Request", self._incoming)
        worker = self._worker
        parser = self._parser
        limits = worker.limits
        self._fed = 0
        if self._phase is Phase.LINGER:
            return
        request.method = parser.get_method()
        request.keep_alive = parser.should_keep_alive()
        request.version_1_1 = parser.get_http_version() == "1.1"
        if self._is_offer(request):
            return
        request.refusal = request.check_head(
            parser.get_http_version(), limits.head_bytes, limits.body_bytes
        ) or self._check_key(request)
        if self._phase is not Phase.EXCHANGE:
            self._wait(Phase.BODY, worker.timeouts.body)
            if request.refusal is None and b"expect" in request.headers:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_chunk_header(self) -> None:
        self._fed = 0

    def on_body(self, body: bytes) -> None:
        self._fed = 0
        cast("Request", self._incoming).add(body, self._worker.limits.body_bytes)

    def on_message_complete(self) -> None:
        request = cast("Request", self._incoming)
        if self._phase is Phase.LINGER or self._is_offer(request):
            return
        self._incoming = None
        self._last_is_in = not request.keep_alive
        if self._exchange is not None or self._queue or self._paused:
            self._queue.append(request)
        else:
            self._served = request
            self._serve(request)

    def _is_offer(self, request: Request) -> bool:
        return bool(self._parser.should_upgrade()) and request.method != b"CONNECT"

    # -- taking requests

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._phase is Phase.LINGER or self._incoming is None:
                    return
                # The client offers another protocol (Java's HTTP client always offers h2c). RFC 9110 section
                # 7.8 lets a server decline by answering as ever, but the parser takes the body for the other
                # protocol's bytes: have a fresh one read the same request without the offer.
                data = self._incoming.head_again() + data[upgrade.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
            else:
                return

    def _bound_incoming(self) -> None:
        request = self._incoming
        if request is None or self._phase is Phase.LINGER:
            return
        limits = self._worker.limits
        if self._fed > limits.head_bytes:
            request.refusal = head_too_large(limits.head_bytes)
        refusal = request.refusal
        if refusal is None:
            return
        length = int(request.headers.get(b"content-length", b"-1"))
        if not refusal.close and b"expect" not in request.headers and 0 <= length <= AWAITED_BODY_BYTES:
            return
        if self._exchange is not None or self._queue or self._paused:
            self._hold()  # it is refused when what came before it has been answered
        else:
            self._stop_reading(refusal, request)

    def _check_key(self, request: Request) -> Refusal | None:
        keys = self._worker.keys
        if not keys or (request.route is not None and request.route.local):
            return None
        headers = request.headers
        given = headers.get(b"authorization")
        if given is not None:
            scheme, _, key = given.partition(b" ")
            key = key.strip() if scheme.lower() == b"bearer" else b""
        else:
            key = headers.get(b"x-api-key", b"")
        if not key:
            message = "You didn't provide an API key; send it as 'Authorization: Bearer KEY'"
            return Refusal(401, "no_key", message, code="missing_api_key")
        if self._verified and hmac.compare_digest(key, self._verified):
            return None
        if keys.name_of(key) is None:
            return Refusal(401, "wrong_key", "Incorrect API key provided", code="invalid_api_key")
        self._verified = key
        return None

    def _serve(self, request: Request) -> None:
        worker = self._worker
        refusal = request.refusal or request.check_body(worker)
        self._wait(Phase.EXCHANGE, worker.timeouts.first_byte)
        if refusal is None and request.route is not None and request.route.local:
            self._serve_local(request)
        elif refusal is not None:
            self.refuse(request, refusal)
            worker.metrics.requests[(request.route_name, str(refusal.status))] += 1
            self.exchange_over(request)
        else:
            exchange = Exchange(worker, self, request)
            self._exchange = exchange
            worker.exchanges.add(exchange)
            exchange.start()

    def _serve_local(self, request: Request) -> None:
        worker = self._worker
        ready = worker.ledger.any_ready and not worker.draining
        status, body = 200, b'{"status":"alive"}'
        if request.route_name == "ready":
            status = 200 if ready else 503
            body = b'{"status":"ready"}' if ready else b'{"status":"not ready"}'
        head = replies.head(
            replies.head_lines(
                status, ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
            ),
            request_id=request.request_id,
            framing=b"content-length: %d\r\n" % len(body),
            close=not self.will_keep_alive(request),
        )
        self.transport.write(head if request.method == b"HEAD" else head + body)
        worker.metrics.requests[(request.route_name, str(status))] += 1
        self.exchange_over(request)

    # -- what an exchange asks for

    def write(self, data: bytes) -> None:
        """Send part of an answer, and give the engine time until the next one."""
        self.transport.write(data)
        if self._paused:
            self._unsent = self.transport.get_write_buffer_size()
        else:
            self.deadline = self._worker.loop.time() + self._worker.timeouts.silence

    def will_keep_alive(self, request: Request) -> bool:
        """Whether the connection stays open behind this answer. HTTP/1.0 connections never do."""
        return request.keep_alive and request.version_1_1 and not self._worker.draining

    def refuse(self, request: Request, refusal: Refusal) -> None:
        """Answer with an error object."""
        self._worker.metrics.count(names.REFUSALS, refusal.reason)
        if refusal.close:
            request.keep_alive = False
        self.transport.write(self._answer(request, refusal))

    def exchange_over(self, request: Request) -> None:
        """The answer is complete: next request, or end of the connection."""
        self._exchange = None
        if not self.will_keep_alive(request):
            self._linger()
            return
        if self._paused:  # the answer still lies in the write buffer: the next one waits for resume_writing
            self._phase = Phase.IDLE
        else:
            self._await_next()

    def _await_next(self) -> None:
        """Go on with what the client sent meanwhile, or wait for what it sends next."""
        if self._incoming is not None:  # part of the next request came while the last one was answered
            self._wait(Phase.BODY, self._worker.timeouts.body)
        else:
            self._wait(Phase.IDLE, self._worker.timeouts.keep_alive)
        if self._queue:
            # Not from within: a client that sends a thousand requests at once must not fill the stack.
            self._worker.loop.call_soon(self._serve_next)
        elif self._held:
            self._read_on()
            self._bound_incoming()

    def _serve_next(self) -> None:
        if self._queue and self._exchange is None and not self._paused and self._phase is not Phase.LINGER:
            request = self._queue.popleft()
            if not self._queue:
                self._read_on()
            self._serve(request)

    def _hold(self) -> None:
        """Read no further until what came before has been answered."""
        if not self._held and not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()

    def _read_on(self) -> None:
        if self._held and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()

    def _give_time_to_take(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = self._worker.loop.time() + self._worker.timeouts.client_stall

    def abort(self) -> None:
        """Cut the connection: what was promised cannot be kept."""
        self._exchange = None
        self.transport.abort()

    # -- ends

    def expired(self) -> None:
        """The deadline has passed."""
        self.deadline = math.inf
        exchange = self._exchange
        unsent = self.transport.get_write_buffer_size()
        if unsent and (self._paused or self._phase in (Phase.IDLE, Phase.LINGER)):
            if unsent < self._unsent:  # slow, but not stalled
                self._give_time_to_take()
                return
            self._worker.metrics.count(names.CLIENT_DISCONNECTS, "stalled")
            self.transport.abort()
        elif exchange is not None:
            exchange.timed_out()
        elif self._phase in (Phase.HEAD, Phase.BODY):
            part = "head" if self._phase is Phase.HEAD else "body"
            seconds = getattr(self._worker.timeouts, part)
            message = f"the request's {part} was not complete within {seconds:g} s"
            self._stop_reading(Refusal(408, f"{part}_timeout", message, code="timeout", close=True))
        else:
            self.transport.abort() if self._phase is Phase.LINGER else self.transport.close()

    def drain(self) -> None:
        """The gateway stops: end the connection now if nothing runs on it, else behind the running answer."""
        if self._phase is Phase.IDLE and not self._queue:
            self.transport.close()

    def shut_down(self) -> None:
        """The drain deadline has passed."""
        exchange = self._exchange
        if exchange is not None and exchange.state is not State.OVER:
            exchange.shut_down()
        self.transport.close()

    def _stop_reading(self, refusal: Refusal, request: Request | None = None) -> None:
        """Answer a request that is not complete, or not HTTP, and end the connection."""
        exchange = self._exchange
        if exchange is not None or self._queue:  # earlier, good requests have no whole answer yet
            self._queue.clear()
            if exchange is not None:
                exchange.client_gone()
            self.abort()
            return
        self._worker.metrics.count(names.REFUSALS, refusal.reason)
        route = request.route_name if request is not None else "other"
        self._worker.metrics.requests[(route, str(refusal.status))] += 1
        if request is not None:
            request.keep_alive = False
        self.transport.write(self._answer(request, refusal))
        self._linger()

    def _linger(self) -> None:
        self._queue.clear()
        self._incoming = None
        self._read_on()  # what lies unread when a connection is closed makes it a reset
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._wait(Phase.LINGER, LINGER_SECONDS)

    def _answer(self, request: Request | None, refusal: Refusal) -> bytes:
        api = request.route.api if request is not None and request.route is not None else "plain"
        body = replies.error_object(refusal, api)
        head = replies.head(
            replies.head_lines(refusal.status, ((b"content-type", b"application/json"), *refusal.headers)),
            request_id=request.request_id if request is not None and request.request_id else b"-",
            framing=b"content-length: %d\r\n" % len(body),
            close=refusal.close or request is None or not self.will_keep_alive(request),
        )
        return head if request is not None and request.method == b"HEAD" else head + body

    def _wait(self, phase: Phase, seconds: float) -> None:
        self._phase = phase
        if not self._paused:  # else the deadline is the client's, to take what it has been sent
            self.deadline = self._worker.loop.time() + seconds
