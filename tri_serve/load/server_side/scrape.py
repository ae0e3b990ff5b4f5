"""Reads the gateway's and the engines' metrics through a run, and keeps what they were at each time.

Counters are carried on over a restart, so that any two snapshots can be subtracted.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tri_serve.load.server_side.fetch import Connect, fetch_page
from tri_serve.load.server_side.page import Buckets, Page, parse_page
from tri_serve.observe import names

INTERVAL_SECONDS = 5.0
"""An engine makes its page in the process that also serves requests; a gateway asks for it each second already."""
MOST_SNAPSHOTS = 512
"""Beyond, every second one is dropped: a day's run keeps as much as an hour's."""

Fetch = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Source:
    """One page to be read."""

    name: str
    """As reports call it: ``gateway``, ``replica-0``."""
    kind: Literal["gateway", "engine"]
    url: str
    """``http://host:port/metrics``."""

    def __str__(self) -> str:
        return self.name if self.name == self.kind else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read at one time; a source that did not answer has no page."""

    at: int
    """ns on CLOCK_MONOTONIC, when it began."""
    pages: Mapping[str, Page]
    """By the source's name."""
    kept: bool = False
    """Of a moment that figures are counted from: never dropped."""
    number: int = 0
    """Which round it was of, from 1."""


@dataclass(slots=True)
class History:
    """All that was read in a run. Pure values: everything that is said of the server is computed from it."""

    sources: tuple[Source, ...]
    snapshots: list[Snapshot] = field(default_factory=list)
    restarts: list[tuple[int, str]] = field(default_factory=list)
    """When a source was first seen to have begun anew (ns), and its name."""
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By source: how often its page could not be had, and the last reason."""
    rounds: int = 0
    """How often all were asked, dropped snapshots included."""


def connecting(connect: Connect, seconds: float = 5.0) -> Fetch:
    """A ``Fetch`` on sockets of that kind."""
    return lambda url: fetch_page(url, connect, seconds)


class Scraper:
    """Asks each source when told to.

        scraper = Scraper(sources)                        # in a thread of its own process
        scraper.snapshot(keep=True)                       # before the first request
        scraper.follow(stopped.wait, stopped.is_set)      # every five seconds
        scraper.snapshot(keep=True)                       # window begins, window ends, all is over

    Greenlets give ``connecting(gevent.socket.create_connection)`` and ``gevent.sleep``. One caller at a time.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        fetch: Fetch | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.history = History(tuple(sources))
        self._fetch = fetch or connecting(socket.create_connection)
        self._clock = clock
        self._stride = 1
        self._raw: dict[str, Page] = {}
        self._carried: dict[str, Page] = {}

    def follow(
        self,
        sleep: Callable[[float], object],
        stopped: Callable[[], bool],
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        """A snapshot every ``interval`` seconds until ``stopped``, which is asked after each sleep."""
        while not stopped():
            sleep(interval)
            if not stopped():
                self.snapshot()

    def snapshot(self, *, keep: bool = False) -> Snapshot:
        """Ask every source once. Never raises for what a source does: see ``history.failures``."""
        history = self.history
        at, pages = self._clock(), {}
        history.rounds += 1
        for source in history.sources:
            wanted = names.GATEWAY_UNDER_LOAD if source.kind == "gateway" else names.ENGINE_UNDER_LOAD
            try:
                page = parse_page(self._fetch(source.url), wanted)
            except (OSError, ValueError) as error:
                self._failed(source, str(error) or type(error).__name__)
                continue
            if page:
                pages[source.name] = self._carry_on(source.name, page, at)
            else:
                self._failed(source, "none of the wanted metrics is on its page")
        taken = Snapshot(at, pages, keep, history.rounds)
        self._append(taken)
        return taken

    def _append(self, taken: Snapshot) -> None:
        """The first and the last always stay: what is said of the whole run is their difference."""
        snapshots = self.history.snapshots
        if snapshots and not self._stays(snapshots[-1]):
            snapshots.pop()
        snapshots.append(taken)
        if len(snapshots) > MOST_SNAPSHOTS:
            self._stride *= 2
            snapshots[:-1] = [one for one in snapshots[:-1] if self._stays(one)]

    def _stays(self, one: Snapshot) -> bool:
        return one.kept or one.number % self._stride == 1 % self._stride

    def _failed(self, source: Source, reason: str) -> None:
        count = self.history.failures.get(source.name, (0, ""))[0]
        self.history.failures[source.name] = (count + 1, reason)

    def _carry_on(self, name: str, page: Page, at: int) -> Page:
        before = self._raw.get(name)
        if before is not None and _began_anew(before, page):
            self.history.restarts.append((at, name))
            self._carried[name] = _added(before, self._carried.get(name))
        self._raw[name] = page
        return _added(page, self._carried.get(name))


def _began_anew(before: Page, now: Page) -> bool:
    """A process that says that it began at another time, or a count that fell: counts never do."""
    start = names.PROCESS_START.name
    if start in before.gauges and start in now.gauges:
        return before.gauges[start] != now.gauges[start]
    fell = any(now.counters.get(key, 0.0) < value for key, value in before.counters.items())
    return fell or any(
        key not in now.histograms or now.histograms[key].count < value.count
        for key, value in before.histograms.items()
    )


def _added(page: Page, carried: Page | None) -> Page:
    """``page`` with the counts of earlier lives on top; its gauges are of now."""
    if carried is None:
        return page
    counters = {
        key: page.counters.get(key, 0.0) + carried.counters.get(key, 0.0)
        for key in page.counters.keys() | carried.counters.keys()
    }
    none = Buckets(0.0, 0.0, {})
    histograms: dict[str, Buckets] = {}
    for key in page.histograms.keys() | carried.histograms.keys():
        new, old = page.histograms.get(key), carried.histograms.get(key)
        histograms[key] = new + old if new is not None and old is not None else new or old or none
    return Page(counters, page.gauges, histograms)
