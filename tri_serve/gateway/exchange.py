"""One request's way through the gateway: choose a replica, send, relay, try elsewhere, or say why not."""

from __future__ import annotations

import asyncio
import logging
import math
from enum import Enum, auto
from time import monotonic
from typing import TYPE_CHECKING

from tri_serve.gateway import replies
from tri_serve.gateway.framing import LAST_CHUNK, chunk
from tri_serve.gateway.relay import AnswerHead, EngineConnection
from tri_serve.observe import names

if TYPE_CHECKING:
    from tri_serve.gateway.ledger import Replica
    from tri_serve.gateway.listener import ClientConnection
    from tri_serve.gateway.request import Request
    from tri_serve.gateway.worker import Worker

# An answer that is no stream is held until it is whole, so that it can still come from another replica if this
# one dies; past this size it is passed on as it comes.
HELD_ANSWER_BYTES = 1024 * 1024
# Another replica may well answer where one says this of itself.
RETRIED_STATUSES = frozenset((500, 502, 503))

log = logging.getLogger("tri_serve.gateway")


class State(Enum):
    """How far an exchange is, seen from the client."""

    WAITING = 0
    """Nothing has been sent to the client: another replica can still take over."""
    RELAYING = 1
    """The client has part of the answer."""
    OVER = 2


class Ending(Enum):
    """What became of an exchange whose replica was drained."""

    ENDED = auto()
    """The client had part of the answer: it was told that no more comes."""
    RETRIED = auto()
    """Another replica was asked, or it waits for one."""
    REFUSED = auto()
    """Nobody else was there or expected, or the attempts were used up: 503."""


class Exchange:
    """One request and its answer. The client's connection and the engine's connection both talk to it."""

    __slots__ = (
        "_attempts",
        "_client",
        "_connection",
        "_events",
        "_held",
        "_held_bytes",
        "_length",
        "_lines",
        "_paused",
        "_replica",
        "_request",
        "_retry_reason",
        "_started",
        "_status",
        "_streaming",
        "_tried",
        "_worker",
        "state",
        "takes_raw_chunks",
        "waited",
    )

    def __init__(self, worker: Worker, client: ClientConnection, request: Request) -> None:
        self.state = State.WAITING
        # HTTP/1.0 knows no chunks.
        self.takes_raw_chunks = request.version_1_1
        # Seconds for which no replica was ready, up to when it was last sent; the waiting room keeps this.
        self.waited = 0.0
        self._worker = worker
        self._client = client
        self._request = request
        # The loop's own clock counts whole milliseconds: too coarse for a time to first event.
        self._started = monotonic()
        self._replica: Replica | None = None
        self._connection: EngineConnection | None = None
        self._tried: list[Replica] = []
        self._attempts = 0
        # Why the next attempt is not the first one, while it has not been made.
        self._retry_reason: str | None = None
        self._paused = False
        self._events = 0
        self._forget_answer()

    def _forget_answer(self) -> None:
        self._status = 0
        self._lines = b""
        self._length: int | None = None
        self._streaming = False
        self._held: list[bytes] = []
        self._held_bytes = 0

    # -- towards the engine

    def start(self) -> None:
        """Send the request to a replica; if none is ready it waits, or is refused."""
        worker = self._worker
        replica = worker.ledger.choose(worker.next_tie(), worker.loop.time(), self._tried)
        if replica is not None:
            self._attempts += 1
            self._tried.append(replica)
            if self._retry_reason is not None:
                worker.metrics.count(names.RETRIES, self._retry_reason)
                self._retry_reason = None
            self._send_to(replica)
        elif worker.waiting.take(self):
            self._client.expect_answer(math.inf)  # its engine's time has not begun
        else:
            self._refuse_unsent()

    def ask_again(self) -> bool:
        """Send the waiting request to a replica if one is ready now.

        One that was tried may be another by now if it has been down, or has had the time for which it is doubted.
        """
        worker = self._worker
        now = worker.loop.time()
        self._tried = [replica for replica in self._tried if replica.ready and replica.doubted_until > now]
        if worker.ledger.choose(0, now, self._tried) is None:
            return False
        worker.waiting.leave(self, "sent")
        self._client.expect_answer(worker.timeouts.first_byte)
        self.start()
        return True

    def waited_in_vain(self) -> None:
        """No replica was ready in time, or all are being drained."""
        self._refuse_unsent()

    def _refuse_unsent(self) -> None:
        if self._retry_reason == "drained":
            self._refuse(replies.replica_drained())
        elif self._attempts:
            self._refuse(replies.engine_unreachable(self._attempts))
        else:
            self._refuse(replies.no_replica(draining=self._worker.draining))

    def _send_to(self, replica: Replica) -> None:
        self._replica = replica
        replica.in_flight += 1
        idle = replica.idle
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                self._send_on(connection)
                return
        self._worker.connect(replica, self)

    def _send_on(self, connection: EngineConnection) -> None:
        self._connection = connection
        request = self._request
        connection.send(self, request.engine_bytes(connection.replica.request_head))
        if self._paused:
            connection.pause()

    def connected(self, connection: EngineConnection) -> None:
        """A fresh connection to a replica that was chosen is up."""
        # The client left, or the replica was drained, or was left and asked again, meanwhile.
        if connection.replica is not self._replica or self._connection is not None:
            connection.close()
            return
        self._send_on(connection)

    def connect_failed(self, replica: Replica, reason: str, detail: str) -> None:
        """``replica`` does not accept connections."""
        if replica is self._replica and self._connection is None:
            self.engine_failed(reason, detail, stale=False)

    def _leave_replica(self) -> None:
        if self._replica is not None:
            self._replica.in_flight -= 1
            self._replica = None
        self._connection = None

    # -- from the engine

    def head_received(self, head: AnswerHead) -> None:
        """The engine began to answer; nothing of it has gone to the client yet."""
        status = head.status
        if status in (401, 403) and self._worker.has_engine_key:
            self._give_up_connection()
            self.engine_failed("key_refused", f"the engine refused the gateway's key ({status})", stale=False)
            return
        if status in RETRIED_STATUSES and self._can_try_another():
            self._give_up_connection()
            self.engine_failed(f"status_{status}", f"the engine answered {status}", stale=False)
            return
        self._status = status
        replica = self._replica
        self._lines = head.lines if replica is None else head.lines + replica.said_line
        self._length = head.length
        self._streaming = head.streaming

    def _give_up_connection(self) -> None:
        if self._connection is not None:
            self._connection.abandon()

    def _can_try_another(self) -> bool:
        worker = self._worker
        return (
            self._attempts < worker.limits.attempts
            and worker.ledger.choose(0, worker.loop.time(), self._tried) is not None
        )

    def relay(self, chunks: bytes, count: int) -> None:
        """Whole chunks of whole events, as the engine sent them."""
        if self.state is State.WAITING:
            self._start_stream()
        self._events += count
        metrics = self._worker.metrics
        metrics.events += count
        # Quotes and line ends inside generated text are escaped: these bytes are the engine's own.
        if b'data: {"error"' in chunks or b"event: error\n" in chunks:
            metrics.count(names.ENGINE_ERROR_EVENTS)
        self._client.write(chunks)

    def payload(self, data: bytes, count: int) -> None:
        """Decoded bytes of the answer: whole events of a stream, or any part of another body."""
        if self._streaming:
            self.relay(chunk(data) if self.takes_raw_chunks else data, count)
        elif self.state is State.RELAYING:
            self._client.write(self._frame(data))
        else:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > HELD_ANSWER_BYTES:
                self._pass_on_held()

    def completed(self, data: bytes, count: int) -> None:
        """The answer is whole; ``data`` is its last part."""
        self._leave_replica()
        if self._streaming:
            if data:
                self.relay(chunk(data) if self.takes_raw_chunks else data, count)
            elif self.state is State.WAITING:
                self._start_stream()
            if self.takes_raw_chunks:
                self._client.write(LAST_CHUNK)
        elif self.state is State.RELAYING:
            last = self._frame(data)
            self._client.write(last + LAST_CHUNK if self._length is None and self.takes_raw_chunks else last)
        else:
            self._held.append(data)
            body = b"".join(self._held)
            framing = b"content-length: %d\r\n" % len(body)
            self._client.write(self._head(framing) + body)
        self._finish(self._status)

    def engine_failed(self, reason: str, detail: str, *, stale: bool) -> None:
        """The engine broke off. ``stale``: an idle connection that the engine had closed already."""
        if self.state is State.OVER:
            return
        worker = self._worker
        replica = self._replica
        self._leave_replica()
        if replica is not None and stale:
            if replica.ready:
                worker.metrics.count(names.RETRIES, "stale_connection")
                self._send_to(replica)
            else:  # it may not be sent anything any more, and has not been
                self._attempts -= 1
                self._retry_reason = "stale_connection"
                self.start()
            return
        if replica is not None:
            worker.metrics.count(names.ENGINE_FAILURES, replica.name, reason)
            worker.doubt(replica, reason)
        name = replica.name if replica is not None else "?"
        log.warning(
            "%s failed (%s: %s) request=%s phase=%s",
            name, reason, detail, self._request.request_id.decode(), self.state.name.lower(),
        )  # fmt: skip
        if self.state is State.RELAYING:
            self._lose_stream(reason, f"the engine failed while it was answering ({reason})")
            return
        self._forget_answer()
        if self._attempts < worker.limits.attempts and not worker.draining_is_over:
            self._retry_reason = reason
            self.start()
        else:
            self._refuse(replies.engine_unreachable(self._attempts))

    def replica_drained(self) -> Ending:
        """The time that a draining replica had for its requests is over: leave it."""
        self._give_up_connection()
        self._leave_replica()
        if self.state is State.RELAYING:
            self._lose_stream("drained", "the replica that was answering is drained", code="replica_drained")
            return Ending.ENDED
        self._forget_answer()
        self._retry_reason = "drained"
        if self._attempts < self._worker.limits.attempts:
            self.start()
        else:
            self._refuse_unsent()
        return Ending.REFUSED if self.state is State.OVER else Ending.RETRIED

    @property
    def replica_name(self) -> str | None:
        """The replica that has this request now."""
        return self._replica.name if self._replica is not None else None

    # -- from the client and the clock

    def client_gone(self) -> None:
        """The client left: the engine's request ends with it."""
        if self.state is State.OVER:
            return
        phase = "waiting" if self.state is State.WAITING else "relaying"
        self._worker.metrics.count(names.CLIENT_DISCONNECTS, phase)
        self._worker.waiting.leave(self, "left")
        self._give_up_connection()
        self._leave_replica()
        self.state = State.OVER
        self._record(499)

    def pause(self) -> None:
        """The client reads slower than the engine sends."""
        self._paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """The client caught up."""
        self._paused = False
        if self._connection is not None:
            self._connection.resume()

    def timed_out(self) -> None:
        """The engine has been silent for longer than the timeouts allow."""
        timeouts = self._worker.timeouts
        replica = self._replica
        if replica is not None:
            self._worker.metrics.count(names.ENGINE_FAILURES, replica.name, "timeout")
        if self.state is State.WAITING:
            self._refuse(replies.engine_timeout(timeouts.first_byte))
        else:
            self._lose_stream("silence", f"the engine sent nothing for {timeouts.silence:g} s")

    def shut_down(self) -> None:
        """The drain deadline has passed."""
        if self.state is State.WAITING:
            self._refuse(replies.no_replica(draining=True))
        else:
            self._lose_stream("shutdown", "the gateway is shutting down")

    # -- towards the client

    def _head(self, framing: bytes) -> bytes:
        request = self._request
        return replies.head(
            self._lines,
            request_id=request.request_id,
            framing=framing,
            close=not self._client.will_keep_alive(request),
        )

    def _start_stream(self) -> None:
        self.state = State.RELAYING
        self._request.forget_body()  # cannot be sent again from here on
        worker = self._worker
        worker.metrics.first_events[self._request.route_name].observe(monotonic() - self._started)
        framing = b"transfer-encoding: chunked\r\n" if self.takes_raw_chunks else b""
        self._client.write(self._head(framing))

    def _pass_on_held(self) -> None:
        self.state = State.RELAYING
        self._request.forget_body()
        if self._length is not None:
            framing = b"content-length: %d\r\n" % self._length
        else:
            framing = b"transfer-encoding: chunked\r\n" if self.takes_raw_chunks else b""
        held = b"".join(self._held)
        self._held.clear()
        self._client.write(self._head(framing) + self._frame(held))

    def _frame(self, data: bytes) -> bytes:
        return chunk(data) if self._length is None and self.takes_raw_chunks else data

    def _lose_stream(self, reason: str, why: str, code: str = "engine_failed") -> None:
        """The answer of which the client has part cannot go on where it was: every such end passes here.

        ``reason`` is the metric's label; ``why`` and ``code`` are for the client.
        """
        self._worker.metrics.count(names.STREAM_FAILURES, reason)
        self._break_off(f"{why}; what was sent is incomplete", code)

    def _break_off(self, message: str, code: str) -> None:
        """End an answer of which the client has part: by an error event if it is a stream."""
        self._give_up_connection()
        self._leave_replica()
        if self._streaming:
            route = self._request.route
            event = replies.error_event(message, code, route.api if route else "plain", self._events)
            self._client.write(chunk(event) + LAST_CHUNK if self.takes_raw_chunks else event)
            self._finish(self._status)
        else:  # the stated length cannot be kept: only the connection's end can say so
            self.state = State.OVER
            self._record(self._status)
            self._client.abort()

    def _refuse(self, refusal: replies.Refusal) -> None:
        self._worker.waiting.leave(self, "refused")
        self._give_up_connection()
        self._leave_replica()
        self.state = State.OVER
        self._client.refuse(self._request, refusal)
        self._record(refusal.status)
        self._client.exchange_over(self._request)

    def _finish(self, status: int) -> None:
        self.state = State.OVER
        self._record(status)
        self._client.exchange_over(self._request)

    def _record(self, status: int) -> None:
        metrics = self._worker.metrics
        route = self._request.route_name
        metrics.requests[(route, str(status))] += 1
        metrics.durations[route].observe(monotonic() - self._started)
        self._worker.exchange_over(self)


async def connect(worker: Worker, replica: Replica, exchange: Exchange) -> None:
    """Open a connection to ``replica`` for ``exchange``, and tell it how that went."""
    address = replica.address
    worker.metrics.count(names.ENGINE_CONNECTIONS, replica.name)
    try:
        async with asyncio.timeout(worker.timeouts.connect):
            _, connection = await worker.loop.create_connection(
                lambda: EngineConnection(replica, worker.loop), address.host, address.port
            )
    except TimeoutError:
        exchange.connect_failed(
            replica, "connect_timeout", f"no connection within {worker.timeouts.connect:g} s"
        )
    except OSError as error:
        exchange.connect_failed(replica, "connect_refused", error.strerror or str(error))
    else:
        exchange.connected(connection)
