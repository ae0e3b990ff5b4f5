"""The client's side: one connection, its requests taken one after the other, each bounded in bytes and time."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, cast

import httptools

from tri_serve.gateway import replies
from tri_serve.gateway.exchange import Exchange, State
from tri_serve.gateway.reading import RequestReader
from tri_serve.gateway.replies import Refusal
from tri_serve.gateway.request import RepeatedHead, Request
from tri_serve.observe import names

if TYPE_CHECKING:
    from tri_serve.gateway.worker import Worker

# A refused request may still be sending its body: it is read and dropped for this long, since closing at once
# would reset the connection and take the answer with it.
LINGER_SECONDS = 2.0
# A connection that was accepted just before a drain gets this long to send what it was opened for.
FIRST_REQUEST_SECONDS = 2.0
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
    """One client connection. Its reader tells it of the requests that come."""

    __slots__ = (
        "_exchange",
        "_fresh",
        "_held",
        "_paused",
        "_phase",
        "_queue",
        "_reader",
        "_repeated",
        "_served",
        "_unsent",
        "_worker",
        "deadline",
        "transport",
    )

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._reader = RequestReader(worker, self)
        self._phase = Phase.IDLE
        # Nothing has been answered on it yet.
        self._fresh = True
        # Requests that came whole while an earlier one was being answered, or its answer was still being taken.
        # Reading stops while there are any.
        self._queue: deque[Request] = deque()
        self._held = False
        self._exchange: Exchange | None = None
        self._repeated: RepeatedHead | None = None
        # The last request that was served as it came, without waiting in the queue.
        self._served: Request | None = None
        self._paused = False
        # What a client that is behind had not taken when that was last looked at.
        self._unsent = math.inf
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
            self._reader.stop()
            return
        worker.clients.add(self)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._wait(Phase.IDLE, worker.timeouts.keep_alive)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader.stopped or reader.last_is_in:
            return
        first = self._phase is Phase.IDLE and reader.incoming is None and not self._paused
        if first:
            if self._repeated is not None:
                request = self._repeated.match(data, self._worker.limits.body_bytes)
                if request is not None:
                    self._serve(request)
                    return
            self._wait(Phase.HEAD, self._worker.timeouts.head)
        try:
            reader.feed(data)
        except httptools.HttpParserError as error:
            if not reader.stopped and not reader.last_is_in:  # else it stands behind the last request
                self._stop_reading(
                    Refusal(400, "bad_http", f"this is not HTTP/1.1: {error}", code="bad_request", close=True)
                )
            return
        served, self._served = self._served, None
        if first and served is not None and served.refusal is None and not self._queue:
            self._repeated = RepeatedHead.learn(data, served)
        self._refuse_early()
        if self._queue:
            self._hold()

    def eof_received(self) -> None:
        """The client will send no more. It has left, or half-closed, which no OpenAI client does: end it."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.client_gone(self)
        self.deadline = math.inf
        self._queue.clear()
        self._reader.stop()
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

    # -- what the reader tells

    def head_complete(self, request: Request) -> None:
        """A head is there and was checked: its body may come."""
        if self._phase is not Phase.EXCHANGE:
            self._wait(Phase.BODY, self._worker.timeouts.body)
            if request.refusal is None and b"expect" in request.headers:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def request_complete(self, request: Request) -> None:
        """A request is whole: serve it, or queue it behind the one that is being answered."""
        if self._exchange is not None or self._queue or self._paused:
            self._queue.append(request)
        else:
            self._served = request
            self._serve(request)

    # -- taking requests

    def _refuse_early(self) -> None:
        refusal = self._reader.refused_early()
        if refusal is None:
            return
        if self._exchange is not None or self._queue or self._paused:
            self._hold()  # it is refused when what came before it has been answered
        else:
            self._stop_reading(refusal, self._reader.incoming)

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

    def expect_answer(self, within: float) -> None:
        """The engine has ``within`` seconds from now to begin its answer."""
        self.deadline = self._worker.loop.time() + within

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
        self._fresh = False
        if not self.will_keep_alive(request):
            self._linger()
            return
        if self._paused:  # the answer still lies in the write buffer: the next one waits for resume_writing
            self._phase = Phase.IDLE
        else:
            self._await_next()

    def _await_next(self) -> None:
        """Go on with what the client sent meanwhile, or wait for what it sends next."""
        if self._reader.incoming is not None:  # part of the next request came while the last one was answered
            self._wait(Phase.BODY, self._worker.timeouts.body)
        else:
            self._wait(Phase.IDLE, self._worker.timeouts.keep_alive)
        if self._queue:
            # Not from within: a client that sends a thousand requests at once must not fill the stack.
            self._worker.loop.call_soon(self._serve_next)
        elif self._held:
            self._read_on()
            self._refuse_early()

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
        """The gateway stops: end the connection now if nothing runs on it, else behind the running answer.

        One that was just accepted is not idle: its first request is on its way.
        """
        if self._phase is not Phase.IDLE or self._queue:
            return
        if self._fresh:
            self.deadline = min(self.deadline, self._worker.loop.time() + FIRST_REQUEST_SECONDS)
        else:
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
        self._reader.stop()
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
