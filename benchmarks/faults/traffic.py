"""Clients that go on without pause while the fleet is broken, and note how each of their requests ended."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import httptools

from .prompts import Ask, Asks, EngineKind
from .streams import Answer, Outcome, classify

SILENCE_SECONDS = 180.0
"""A client that hears nothing for this long gives up: beyond the gateway's own bounds."""
LONGEST_PAUSE = 0.3
"""Seconds between a client's requests, at most."""
# A client that is refused comes back after this, as a client library does: without it, it would spin.
_BACK_OFF = 0.2


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Times are seconds on the monotonic clock."""

    client: int
    ask: str
    stream: bool
    began: float
    opened: float | None
    """When its connection was opened, which may have been for an earlier request; None: it could not be."""
    first: float | None
    """When the first byte of a body came."""
    ended: float
    outcome: Outcome
    detail: str
    request_id: str
    local_port: int | None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(slots=True)
class UnderWay:
    """What one client is doing now."""

    phase: str = "idle"
    """``idle``, ``connecting``, ``waiting`` (nothing of the answer yet) or ``receiving``."""
    stream: bool = False
    local_port: int | None = None


class _Response:
    """httptools' callbacks for one response."""

    def __init__(self, answer: Answer, seen: UnderWay) -> None:
        self.request_id = ""
        self.first: float | None = None
        self.keep_alive = True
        self._answer = answer
        self._seen = seen
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self.request_id = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self.keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self.first is None:
            self.first = time.monotonic()
            self._seen.phase = "receiving"
        self._answer.body += body

    def on_message_complete(self) -> None:
        self._answer.complete = True


class Client:
    """One client: a request, its answer, a short pause, the next request."""

    def __init__(
        self, number: int, host: str, port: int, asks: Asks, *, keep_alive: bool, silence: float, pause: float
    ) -> None:
        self.under_way = UnderWay()
        self._number = number
        self._host = host
        self._port = port
        self._asks = asks
        self._keep_alive = keep_alive
        self._silence = silence
        self._pause = pause
        self._random = random.Random(number)
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._opened = 0.0

    async def run(self, stopping: asyncio.Event, records: list[Record]) -> None:
        """Until ``stopping`` is set; a request that runs then is waited for."""
        try:
            while not stopping.is_set():
                record = await self._one(self._asks.draw())
                records.append(record)
                self.under_way = UnderWay()
                refused = record.outcome in (Outcome.STATUS, Outcome.REFUSED, Outcome.LOST)
                pause = _BACK_OFF if refused else self._random.random() * self._pause
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), pause)
        finally:
            self._drop()

    async def _one(self, ask: Ask) -> Record:
        began = time.monotonic()
        answer, seen = Answer(), self.under_way
        seen.stream = ask.stream
        response = _Response(answer, seen)
        reused = self._connection is not None and not self._connection[0].at_eof()
        opened = self._opened if reused else None
        try:
            async with asyncio.timeout(self._silence):
                if not reused:
                    self._drop()
                    seen.phase = "connecting"
                    self._connection = await asyncio.open_connection(self._host, self._port)
                    self._opened = opened = time.monotonic()
        except TimeoutError:
            answer.silent = True
        except OSError as error:
            answer.refused, answer.error = True, _words(error)
        if self._connection is not None and opened is not None:
            seen.local_port = self._connection[1].get_extra_info("sockname")[1]
            seen.phase = "waiting"
            await self._converse(*self._connection, ask, answer, response)
        if not (self._keep_alive and answer.complete and response.keep_alive and answer.error is None):
            self._drop()
        verdict = classify(ask, answer)
        return Record(
            client=self._number,
            ask=ask.name,
            stream=ask.stream,
            began=began,
            opened=opened,
            first=response.first,
            ended=time.monotonic(),
            outcome=verdict.outcome,
            detail=verdict.detail,
            request_id=response.request_id,
            local_port=seen.local_port,
        )

    async def _converse(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ask: Ask,
        answer: Answer,
        response: _Response,
    ) -> None:
        try:
            writer.write(render(ask, self._host, keep_alive=self._keep_alive))
            while not answer.complete:
                async with asyncio.timeout(self._silence):
                    data = await reader.read(65_536)
                if not data:
                    answer.error = "the connection was closed"
                    return
                response.feed(data)
        except TimeoutError:
            answer.silent = True
        except OSError as error:
            answer.error = _words(error)
        except httptools.HttpParserError as error:
            answer.error = f"not HTTP: {error}"

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection[1].transport.abort()
            self._connection = None


class Load:
    """Several clients at once. Used as an async context; they stop, and are waited for, at its end."""

    def __init__(
        self,
        url: str,
        engine: EngineKind,
        clients: int,
        seed: int,
        *,
        streams: float = 0.5,
        silence: float = SILENCE_SECONDS,
        pause: float = LONGEST_PAUSE,
    ) -> None:
        host, port = address(url)
        self.records: list[Record] = []
        self._silence = silence
        self._clients = [
            # Every other client keeps its connection, as libraries do; the others take a new one each time.
            Client(
                number,
                host,
                port,
                Asks(engine, seed * 1_000 + number, streams=streams),
                keep_alive=number % 2 == 0,
                silence=silence,
                pause=pause,
            )
            for number in range(clients)
        ]
        self._stopping = asyncio.Event()
        self._abandoned = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [
            asyncio.create_task(client.run(self._stopping, self.records)) for client in self._clients
        ]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopping.set()
        patience = self._silence + 10 if kind is None and not self._abandoned else 0.0
        late = (await asyncio.wait(self._tasks, timeout=patience))[1]
        for task in late:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def abandon(self) -> None:
        """At the end do not wait for what is under way: the fleet will not answer it."""
        self._abandoned = True

    def phases(self) -> dict[str, int]:
        """How many clients are doing what just now."""
        return dict(Counter(client.under_way.phase for client in self._clients))

    def streaming_ports(self) -> set[int]:
        """Local ports of the connections on which a stream is running or asked for now."""
        return {
            port
            for client in self._clients
            if client.under_way.stream and (port := client.under_way.local_port) is not None
        }


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of a load's requests."""

    whole: Counter[Outcome]
    """Of those that are not streamed."""
    streams: Counter[Outcome]

    @classmethod
    def of(cls, records: list[Record]) -> Tally:
        """The counts of ``records``."""
        return cls(
            Counter(record.outcome for record in records if not record.stream),
            Counter(record.outcome for record in records if record.stream),
        )

    def plain(self) -> dict[str, dict[str, int]]:
        """For JSON, every outcome named."""
        return {
            "not_streamed": {str(outcome): self.whole[outcome] for outcome in Outcome},
            "streams": {str(outcome): self.streams[outcome] for outcome in Outcome},
        }


def render(ask: Ask, host: str, *, keep_alive: bool) -> bytes:
    """The request's bytes."""
    return (
        f"POST {ask.path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"connection: {'keep-alive' if keep_alive else 'close'}\r\ncontent-length: {len(ask.body)}\r\n\r\n"
    ).encode() + ask.body


def address(url: str) -> tuple[str, int]:
    """Host and port of a fleet's URL."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host.strip("[]"), int(port)


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
