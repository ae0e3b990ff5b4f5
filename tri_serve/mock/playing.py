"""A script being played on a connection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

from .script import Act, Step

if TYPE_CHECKING:
    from .connection import Connection
    from .stats import Stats

_KILLED = 137  # 128 + SIGKILL, what a shell reports of a killed program


class Play:
    """Writes a script's steps when they are due, and books the end, whichever it is."""

    __slots__ = (
        "_arrival",
        "_connection",
        "_next",
        "_script",
        "_stats",
        "_waits",
        "_writes",
        "ended",
        "request_id",
    )

    def __init__(
        self, connection: Connection, script: Iterator[Step], stats: Stats, request_id: str, arrival: float
    ) -> None:
        self._connection = connection
        self._script = script
        self._stats = stats
        self._arrival = arrival
        self._next: Step = next(script)
        self._waits = False
        self._writes = 0
        self.request_id = request_id
        self.ended = False
        stats.running += 1
        stats.max_running = max(stats.max_running, stats.running)

    def begin(self) -> None:
        """Play what is due now, and leave the rest to the pacer."""
        due: float | None = self._arrival + self._next[0]
        if self._next[0] <= 0:
            due = self.step()
        if due is not None:
            self._connection.pacer.add(due, self.step)

    def step(self) -> float | None:
        """Do what is due; returns when the next thing is."""
        transport = self._connection.transport
        if self.ended or transport is None:
            return None
        if not self._connection.writable:
            self._waits = True
            return None
        what = self._next[1]
        if isinstance(what, bytes):
            transport.write(what)
            self._writes += 1
            # FINISH follows its last bytes at once: it is bookkeeping, not an event of its own.
            self._next = next(self._script)
            if self._next[1] is not Act.FINISH:
                return self._arrival + self._next[0]
            what = Act.FINISH
        assert isinstance(what, Act)
        self._ACTS[what](self)
        return None

    def client_left(self) -> None:
        """The client disconnected: the engine's request is aborted."""
        if self.ended:
            return
        self._end()
        self._stats.aborted += 1
        now = time.monotonic()
        self._stats.aborts.append(
            {"id": self.request_id, "at": now, "age": now - self._arrival, "writes": self._writes}
        )

    def client_reads_again(self) -> None:
        """The client took what was waiting for it: go on where the script stopped."""
        if self._waits and not self.ended:
            self._waits = False
            self._connection.pacer.add(self._arrival + self._next[0], self.step)

    def _end(self) -> None:
        self.ended = True
        self._stats.running -= 1

    def _finish(self) -> None:
        self._end()
        self._stats.finished += 1
        self._connection.finish()

    def _close(self) -> None:
        self._end()
        self._connection.close()

    def _reset(self) -> None:
        self._end()
        self._connection.reset()

    def _stall(self) -> None:
        """Nothing more; the request goes on running until the client leaves."""

    def _exit(self) -> None:
        os._exit(_KILLED)

    _ACTS: ClassVar[dict[Act, Callable[[Play], None]]] = {
        Act.FINISH: _finish,
        Act.CLOSE: _close,
        Act.RESET: _reset,
        Act.STALL: _stall,
        Act.EXIT: _exit,
    }
