"""A new connection every few milliseconds, each with one tiny request: who is refused, and who waits how long."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

from .streams import Outcome

EVERY_SECONDS = 0.02
SILENCE_SECONDS = 90.0
_REQUEST = b"GET /health HTTP/1.1\r\nhost: faults\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Connection:
    """One new connection. Times are seconds on the monotonic clock."""

    opened: float
    connected: float | None
    ended: float
    outcome: Outcome
    detail: str = ""

    @property
    def waited(self) -> float:
        """Seconds from asking for a connection to the answer, or to the end of hope."""
        return self.ended - self.opened

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Connector:
    """Opens connections all the time, whatever becomes of the earlier ones. An async context."""

    def __init__(self, host: str, port: int, *, every: float = EVERY_SECONDS) -> None:
        self.connections: list[Connection] = []
        self._host = host
        self._port = port
        self._every = every
        self._tasks: set[asyncio.Task[None]] = set()
        self._opener: asyncio.Task[None] | None = None
        self._abandoned = False

    async def __aenter__(self) -> Connector:
        self._opener = asyncio.create_task(self._open_all())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._opener is not None
        self._opener.cancel()
        await asyncio.gather(self._opener, return_exceptions=True)
        if kind is not None or self._abandoned:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def abandon(self) -> None:
        """At the end do not wait for what is under way: the fleet will not answer it."""
        self._abandoned = True

    async def _open_all(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            task = asyncio.create_task(self._one())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due = max(due + self._every, loop.time() - self._every)  # a late loop does not open a volley
            await asyncio.sleep(due - loop.time())

    async def _one(self) -> None:
        opened = time.monotonic()
        connected: float | None = None
        outcome, detail = Outcome.LOST, "closed without an answer"
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                connected = time.monotonic()
                writer.write(_REQUEST)
                line = await reader.readline()
                if line.startswith(b"HTTP/1.1 200 "):
                    outcome, detail = Outcome.OK, ""
                elif line:
                    outcome, detail = Outcome.STATUS, line.decode("latin-1").strip()
        except TimeoutError:
            outcome, detail = Outcome.SILENT, f"nothing for {SILENCE_SECONDS:g} s"
        except OSError as error:
            outcome = Outcome.REFUSED if connected is None else Outcome.LOST
            detail = error.strerror or type(error).__name__
        finally:
            if writer is not None:
                writer.transport.abort()
        self.connections.append(Connection(opened, connected, time.monotonic(), outcome, detail))
