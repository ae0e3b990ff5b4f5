"""The file with a line for each request, written beside the event loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import gevent
import orjson
from gevent.event import Event

from tri_serve.load.records import Record

Detail = Literal["full", "short", "none"]
"""``full``: with the time and the tokens of every event; ``short``: without; ``none``: no file."""

_PERIOD = 0.5
"""Seconds between two writes: long enough to write in large pieces, short enough to keep little in memory."""


_SLICE = 8
"""Records made into lines before others get their turn: a long answer's takes up to 50 µs."""


class Threads(Protocol):
    """Runs a function where it may block; gevent's thread pool."""

    def apply(self, func: Callable[..., Any], args: tuple[Any, ...] = ()) -> Any: ...


class RecordLog:
    """Appends records to a file as JSON lines.

    A disk that is full, or anything else that the file system refuses, ends the writing and not the run: ``error``
    then says what, and ``lost`` counts the records that the file lacks.
    """

    def __init__(self, path: Path, header: dict[str, Any], detail: Detail, threads: Threads) -> None:
        self.path = path
        self.error = ""
        self.lost = 0
        self._detail = detail
        self._threads = threads
        self._header = orjson.dumps(header)
        self._waiting: list[Record] = []
        self._file = -1
        self._greenlet: Any = None
        self._closing = Event()

    def start(self) -> None:
        """Make the file, and write from now on."""
        if self._detail == "none":
            return
        try:
            # On another machine than the leader's it may not be there yet.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self._give_up(error)
            return
        self._write(self._header + b"\n", 0)
        self._greenlet = gevent.spawn(self._run)

    def add(self, record: Record) -> None:
        """Take a record that will not change any more."""
        if self.error:
            self.lost += 1
        elif self._detail != "none":
            self._waiting.append(record)

    def close(self) -> None:
        """Write what is left."""
        # A batch may be in a thread's hands: what comes of it is waited for, else its loss would stay unsaid.
        self._closing.set()
        if self._greenlet is not None:
            self._greenlet.join()
            self._greenlet = None
        self._flush()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _run(self) -> None:
        while not self.error:
            if self._closing.wait(_PERIOD):
                return
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self.error or not waiting:
            self.lost += len(waiting)
            return
        lines = []
        for count, record in enumerate(waiting, 1):
            lines.append(as_line(record, full=self._detail == "full"))
            if not count % _SLICE:
                gevent.sleep(0)
        self._write(b"".join(lines), len(waiting))

    def _write(self, data: bytes, records: int) -> None:
        try:
            self._threads.apply(_write_all, (self._file, data))
        except OSError as error:
            self.lost += records
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.error = f"{self.path}: {error.strerror or error}"


def as_line(record: Record, *, full: bool) -> bytes:
    """A record as one line of JSON, its end included; the times of its events are left out unless ``full``."""
    if full:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    kept = {name: getattr(record, name) for name in record.__slots__ if not name.startswith("event_")}
    return orjson.dumps(kept, option=orjson.OPT_APPEND_NEWLINE)


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
