"""Reads the gateway's and the engines' metrics while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence

import gevent
import gevent.socket

from tri_serve.errors import UsageError
from tri_serve.load.server_side.scrape import History, Scraper, Source, connecting


class ServerWatch:
    """Snapshots before the first request, at the window's ends, after the last answer, and in between."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._scraper = Scraper(sources, connecting(gevent.socket.create_connection)) if sources else None

    @property
    def history(self) -> History | None:
        """All that was read; None where there was nothing to read."""
        return self._scraper.history if self._scraper else None

    def before(self) -> None:
        """Before the first request."""
        if self._scraper is not None:
            self._scraper.snapshot(keep=True)

    def follow(self, start: int, begin: int, end: int) -> None:
        """Until it is killed; ``begin`` and ``end`` bound the window."""
        if self._scraper is None:
            return
        for moment in (begin, end):
            self._scraper.follow(gevent.sleep, lambda moment=moment: _left(moment) <= 5.5)  # type: ignore[misc]
            gevent.sleep(max(0.0, _left(moment)))
            self._scraper.snapshot(keep=True)
        self._scraper.follow(gevent.sleep, lambda: False)

    def after(self) -> None:
        """After the last answer."""
        if self._scraper is not None:
            self._scraper.snapshot(keep=True)


def _left(moment: int) -> float:
    return (moment - time.perf_counter_ns()) / 1e9


def sources_of(given: Sequence[str], url: str) -> tuple[Source, ...]:
    """``gateway=URL`` and ``NAME=URL`` of engines; without any, the page beside the API, as vLLM has it.

    Raises UsageError for what is no such pair.
    """
    if not given:
        return (Source("engine", "engine", f"{url}/metrics"),) if url.startswith("http://") else ()
    sources = []
    for pair in given:
        name, equals, address = pair.partition("=")
        if not equals or not name or not address.startswith("http://"):
            raise UsageError(
                f"--scrape {pair}: takes gateway=http://HOST:PORT/metrics, or the name of an engine"
            )
        sources.append(Source(name, "gateway" if name == "gateway" else "engine", address))
    return tuple(sources)
