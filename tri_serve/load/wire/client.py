"""Asks one item and fills one record.

The greenlet that asks sleeps while its answer comes. Reading happens in the event loop's own callback: one
``os.read``, one stamp, and the search for the answer's end (framing.py). Events are split and their JSON is parsed
after the stream, or whenever 32 KiB have come: one stream at a time, all being read between its turns (turns.py).
"""

from __future__ import annotations

import contextlib
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import takewhile
from types import TracebackType
from typing import Any

import gevent
import orjson
from gevent.hub import Waiter

from tri_serve import __version__
from tri_serve.errors import UsageError
from tri_serve.load.records import Outcome, Record
from tri_serve.load.wire.answer import Answer, Folder
from tri_serve.load.wire.connection import ClosedError, Connection, Connector, NoConnectionError
from tri_serve.load.wire.events import MOST_EVENT_BYTES, MOST_IDS_BYTES, EventSplitter
from tri_serve.load.wire.framing import AnswerReader, MalformedAnswerError
from tri_serve.load.wire.target import Target
from tri_serve.load.wire.turns import Turns
from tri_serve.load.wire.wording import error_line
from tri_serve.load.workload.items import Item

_Event = tuple[bytes, int]
"""An event's payload and, in a stream, where it ended; then, the time at which it was read."""
_HELD_BYTES = 32_768
"""Of one stream's body before it is parsed: bounds memory at some 64 KiB for each open stream."""
_MOST_IDLE_SECONDS = 4.0
"""A connection that has been idle for longer is not used again: uvicorn, which vLLM's server runs on, closes one
after 5 s (uvicorn's ``timeout_keep_alive``), and a request that meets that moment would be lost."""
_MOST_ERROR_BYTES = 65_536
_MOST_BODY_BYTES = 1024 * 1024 * 1024
_MOST_EVENTS = 1_000_000


def _bounds(tokens: int) -> tuple[int, int]:
    """The most events and bytes of an answer of ``tokens``; 0: it is not known.

    An event bears a token or more, but for a few that bear none; servers that send each character alone have some
    for each token. What the events hold is kept until the end.
    """
    events = 4 * tokens + 256 if tokens else _MOST_EVENTS
    return events, min(_MOST_BODY_BYTES, MOST_IDS_BYTES + 4096 * events)


_KEY = re.compile(r"[\x21-\x7e]+")
"""Printable ASCII: a line end would begin another head."""


class Client:
    """Sends requests to one target from one process, on connections that it keeps. Not shared between processes.

    ``key`` goes into the head ``authorization`` and nowhere else. ``connect_timeout`` and ``silence`` are seconds.
    ``token_ids`` asks vLLM for the ids of each event's tokens, so that the tokens of an event are known.
    Raises UsageError for a key that a head cannot hold.
    """

    def __init__(
        self,
        target: Target,
        model: str,
        key: str | None = None,
        *,
        connect_timeout: float = 10.0,
        silence: float = 600.0,
        token_ids: bool = False,
    ) -> None:
        if key and not _KEY.fullmatch(key):
            raise UsageError(
                "the client key holds a line end, a space or another character that no key has",
                hint="look at TRI_SERVE_API_KEY, else OPENAI_API_KEY",
            )
        self.target = target
        self._model = model
        self._key = key
        self._silence = silence
        self._connector = Connector(target, connect_timeout, silence)
        self._idle: list[Connection] = []
        self._turns = Turns()
        self._additions: dict[str, Any] = {"model": model}
        self._most_event_bytes = MOST_IDS_BYTES if token_ids else MOST_EVENT_BYTES
        self._streamed: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        if token_ids:
            self._additions["return_token_ids"] = True
        lines = [f"host: {target.authority}", f"user-agent: tri-serve-load/{__version__}"]
        lines += ["content-type: application/json", "accept-encoding: identity"]
        if key:
            lines.append(f"authorization: Bearer {key}")
        self._head_lines = "\r\n".join(lines)

    def ask(self, item: Item, record: Record) -> Answer:
        """Send ``item`` and wait for the whole answer. Whatever the server does ends in ``record.outcome``: OK
        means whole, and what the answer says is for ``tri_serve.load.checks.judge`` to judge.

        Times that the caller has set (``scheduled``, ``dispatched``) are kept. If the greenlet is killed meanwhile,
        the record stays CANCELLED, with what had come until then, and the kill goes on its way.
        """
        if not record.dispatched:
            record.dispatched = time.perf_counter_ns()
        record.chat = item.route == "/v1/chat/completions"
        record.intended_input_tokens = item.input_tokens
        record.intended_output_tokens = item.output_tokens
        body = {**self._additions, **item.body}
        if body.setdefault("stream", True):
            body |= self._streamed
        request = self._render("POST", item.route, orjson.dumps(body))
        try:
            connection = self._connection()
        except NoConnectionError as error:
            # What this machine could not do says nothing about the server.
            record.outcome = Outcome.UNSENT if error.own else Outcome.CONNECT
            record.detail = str(error)
            return Answer()
        tell = partial(self.tell, body=item.body)
        with _Exchange(connection, record, self._silence, tell, self._turns) as exchange:
            exchange.most_events, exchange.most_bytes = _bounds(item.output_tokens)
            exchange.most_event_bytes = self._most_event_bytes
            answer = exchange.run(request, stream=bool(body["stream"]))
            if exchange.reusable:
                self._keep(connection)
            return answer

    def fetch(self, method: str, path: str, value: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """Status and body of a request outside of the load (``/v1/models``, ``/tokenize``).

        Raises NoConnectionError without a connection, ClosedError if the answer ends early or does not come in
        time, MalformedAnswerError if it is not HTTP.
        """
        record = Record(index=0, item="")
        body = b"" if value is None else orjson.dumps(value)
        request = self._render(method, path, body)
        connection = self._connection()
        with _Exchange(connection, record, self._silence, self.tell, self._turns) as exchange:
            fetched = exchange.fetch(request)
            if exchange.reusable:
                self._keep(connection)
            return record.status, fetched

    def tell(self, value: Any, *, body: Mapping[str, Any] | None = None) -> str:
        """What an error object of the server says, in one line without the key and without the request's texts."""
        return error_line(value, key=self._key, body=body)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _render(self, method: str, path: str, body: bytes) -> bytes:
        head = f"{method} {self.target.base}{path} HTTP/1.1\r\n{self._head_lines}\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    def _connection(self) -> Connection:
        oldest = time.monotonic() - _MOST_IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since >= oldest and connection.is_quiet():
                return connection
            connection.close()
        return self._connector.connect()

    def _keep(self, connection: Connection) -> None:
        connection.used = True
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        # The last one is taken first, so those that nobody needs grow old at the front.
        oldest = connection.idle_since - _MOST_IDLE_SECONDS
        while self._idle[0].idle_since < oldest:
            self._idle.pop(0).close()


class _Exchange:
    """One request and its answer on a connection, which it closes in the end unless it can be used again."""

    def __init__(
        self,
        connection: Connection,
        record: Record,
        silence: float,
        tell: Callable[[Any], str],
        turns: Turns,
    ) -> None:
        self._connection = connection
        self._turns = turns
        self._record = record
        self._silence_ns = int(silence * 1e9)
        self._reader = AnswerReader()
        self._splitter = EventSplitter()
        self._tell = tell
        self._folder = Folder(record, tell)
        self._hub = gevent.get_hub()
        self._readable = self._hub.loop.io(connection.fd, 1)
        self._timer = self._hub.loop.timer(silence)
        self._waiter: Waiter[None] | None = None
        self._resting = False
        self._heard = 0
        # How it ended, if not with a whole answer.
        self._failure: tuple[Outcome, str] | None = None
        self._streams = False
        self._events: Iterator[_Event] = iter(())
        self._whole: list[bytes] = []
        self._whole_bytes = 0
        self.reusable = False
        self.most_events, self.most_bytes = _bounds(0)
        self.most_event_bytes = MOST_IDS_BYTES

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._readable.stop()
        self._readable.close()
        self._timer.stop()
        self._timer.close()
        if not self.reusable:
            self._connection.close()

    def run(self, request: bytes, *, stream: bool) -> Answer:
        """Send and wait; fills the record."""
        record = self._record
        try:
            self._send(request)
            while not self._wait():
                self._digest_in_turns()
            self._digest_in_turns()
        except BaseException:  # the greenlet is killed: keep what has come
            self._readable.stop()
            self._digest(iter)
            self._folder.close()
            raise
        self._finish(stream=stream)
        self._folder.close()
        record.outcome, record.detail = self._verdict()
        return self._folder.answer

    def fetch(self, request: bytes) -> bytes:
        """Send and wait; returns the body."""
        self._send(request)
        body = []
        while True:
            ended = self._wait()
            body.append(self._reader.drain()[0])
            if ended:
                break
        self._record.status = self._reader.status
        if self._failure is not None:
            outcome, detail = self._failure
            raise (MalformedAnswerError if outcome is Outcome.MALFORMED else ClosedError)(detail)
        self.reusable = self._reader.keep_alive
        return b"".join(body)

    def _send(self, request: bytes) -> None:
        record = self._record
        record.reused = self._connection.used
        record.sent = self._heard = time.perf_counter_ns()
        self._timer.start(self._look_at_clock)
        # A server may answer before it closes: what it sent decides, so that this error says nothing.
        with contextlib.suppress(OSError):
            self._connection.send(request)
        self._readable.start(self._read)

    def _wait(self) -> bool:
        """Until there is something to digest. Whether the exchange has ended."""
        if self._failure is None and not self._reader.done and self._reader.held_bytes < _HELD_BYTES:
            self._waiter = Waiter(self._hub)
            try:
                self._waiter.get()
            finally:
                self._waiter = None
        return self._failure is not None or self._reader.done

    # -- called by the event loop, which must not wait

    def _read(self) -> None:
        reader = self._reader
        try:
            data = self._connection.read()
        except ClosedError as error:
            self._heard = time.perf_counter_ns()
            if not reader.take_end():
                self._failure = (Outcome.CUT, f"{error} {self._where()}")
            self._wake()
            return
        now = time.perf_counter_ns()
        if data is None:
            return
        self._record.bytes_received += len(data)
        try:
            reader.take(data, now)
        except MalformedAnswerError as error:
            self._heard = now
            self._failure = (Outcome.MALFORMED, str(error))
            self._wake()
            return
        if not reader.interim:  # a server that says no more than "I am still here" is silent
            self._heard = now
        if reader.done:
            self._wake()
        elif reader.held_bytes >= _HELD_BYTES:
            if self._waiter is not None:
                self._waiter.switch(None)
            elif reader.held_bytes >= 2 * _HELD_BYTES:
                self._readable.stop()  # until its turn to be parsed has come
                self._resting = True

    def _look_at_clock(self) -> None:
        left = self._heard + self._silence_ns - time.perf_counter_ns()
        if left <= 0:
            silence = self._silence_ns / 1e9
            self._failure = (Outcome.TIMEOUT, f"nothing came for {silence:g} s {self._where()}")
            self._wake()
            return
        self._timer.stop()
        self._timer.close()
        self._timer = self._hub.loop.timer(left / 1e9)
        self._timer.start(self._look_at_clock)

    def _wake(self) -> None:
        self._readable.stop()
        self._timer.stop()
        if self._waiter is not None:
            self._waiter.switch(None)

    def _where(self) -> str:
        if not self._reader.begun:
            return "on a used connection, before the answer" if self._connection.used else "before the answer"
        return "inside the body" if self._reader.head_time else "inside the head"

    # -- called by the greenlet that asks

    def _digest_in_turns(self) -> None:
        with self._turns as turns:
            self._digest(turns.over)
        if self._resting and self._failure is None and not self._reader.done:
            self._resting = False
            self._readable.start(self._read)

    def _digest(self, turns: Callable[[Iterable[_Event]], Iterator[_Event]]) -> None:
        """Parse what has come."""
        reader, record = self._reader, self._record
        if not record.head and reader.head_time:
            record.head = reader.head_time
            record.status = reader.status
            record.request_id = reader.headers.get(b"x-request-id", b"")[:128].decode("latin-1")
            record.replica = reader.headers.get(b"x-tri-replica", b"")[:64].decode("latin-1")
            kind = reader.headers.get(b"content-type", b"").lower()
            self._streams = reader.status == 200 and kind.startswith(b"text/event-stream")
        # Where a killed greenlet was in the middle of it.
        self._folder.add_events(self._events)
        while reader.held_bytes:
            body, ends, stamps = reader.drain()
            if self._streams:
                self._events = takewhile(self._is_allowed, _timed(self._splitter.split(body), ends, stamps))
                self._folder.add_events(turns(self._events))
                if len(self._splitter.rest) > self.most_event_bytes:
                    self._fail(Outcome.MALFORMED, f"an event is longer than {self.most_event_bytes} bytes")
                if len(record.event_times) > self.most_events:
                    asked = record.intended_output_tokens
                    self._fail(
                        Outcome.MALFORMED,
                        f"more than {self.most_events} events, where {asked} tokens were asked for",
                    )
            else:
                self._hold(body)
            if reader.body_bytes > self.most_bytes:
                self._fail(Outcome.MALFORMED, f"the answer is longer than {self.most_bytes} bytes")
            if self._failure is not None and self._failure[0] is Outcome.MALFORMED:
                break

    def _is_allowed(self, _event: _Event) -> bool:
        return len(self._record.event_times) <= self.most_events

    def _hold(self, body: bytes) -> None:
        most = MOST_IDS_BYTES if self._reader.status == 200 else _MOST_ERROR_BYTES
        self._whole_bytes += len(body)
        if self._whole_bytes <= most:
            self._whole.append(body)
        elif self._reader.status == 200:
            self._fail(Outcome.MALFORMED, f"the answer is longer than {most} bytes")

    def _fail(self, outcome: Outcome, detail: str) -> None:
        if self._failure is None:
            self._failure = (outcome, detail)
        self._wake()

    def _finish(self, *, stream: bool) -> None:
        """The end has come: what follows from it."""
        reader, record = self._reader, self._record
        self.reusable = self._failure is None and reader.done and reader.keep_alive
        if reader.done:
            record.done = self._heard
        if self._streams or reader.status != 200 or not reader.done:
            return
        self._folder.add_whole(b"".join(self._whole), self._heard, unasked=stream)

    def _verdict(self) -> tuple[Outcome, str]:
        if self._failure is not None and self._failure[0] is Outcome.MALFORMED:
            return self._failure
        if self._reader.status not in (0, 200):
            return Outcome.STATUS, self._refusal()
        said, detail = self._folder.verdict()
        if self._failure is None or said is Outcome.IN_BAND_ERROR:
            return said, detail
        return self._failure

    def _refusal(self) -> str:
        try:
            words = self._tell(orjson.loads(b"".join(self._whole)))
        except orjson.JSONDecodeError:
            words = "without an error object"
        return f"{self._reader.status}: {words}"


def _timed(events: Iterable[_Event], ends: list[int], stamps: list[int]) -> Iterator[_Event]:
    """Each event with the time of the read that brought its last byte."""
    read = 0
    for payload, end in events:
        if ends[read] < end:
            read = bisect_left(ends, end, read + 1)
        yield payload, stamps[read]
