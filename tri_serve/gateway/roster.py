"""Who is in the fleet and how they are. One per gateway, in its first process; the workers get copies.

A source (the configuration, the supervisor over the admin socket) says who is there and who is being drained;
the roster itself looks whether they answer, and how busy they say they are.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection
from typing import Any

from tri_serve.gateway.config import ReplicaAddress
from tri_serve.gateway.load import EngineLoad, LoadMeter, read_page
from tri_serve.gateway.probes import health_status, metrics_page

PROBE_SECONDS = 1.0
# A replica that is down is looked at more often: how soon it is used again depends on it.
PROBE_DOWN_SECONDS = 0.25
# vLLM's /health answers late when the engine is saturated; a slow answer is no failure until it repeats.
PROBE_TIMEOUT_SECONDS = 5.0
TIMEOUTS_UNTIL_DOWN = 3
# From the start of one scrape to the start of the next; an engine that is slow to make its page gets a rest.
SCRAPE_SECONDS = 1.0
SCRAPE_PAUSE_SECONDS = 0.5
SCRAPE_TIMEOUT_SECONDS = 5.0
# The workers are told of many engines' loads at once. Short: what a worker has running is compared with them.
TELL_SECONDS = 0.05
# Replicas that come together do not answer in the same millisecond, and all that waited would go to the first: the
# workers hear of it when the others have been looked at, too, or after this time.
SETTLE_SECONDS = 0.25

log = logging.getLogger("tri_serve.gateway")


class Entry:
    """One replica as the roster sees it."""

    def __init__(self, address: ReplicaAddress) -> None:
        self.address = address
        self.healthy = False
        self.reason = "not yet asked"
        self.timeouts = 0
        self.heard_at = -math.inf
        """When /metrics answered last; loop time."""
        self.look_now = asyncio.Event()
        self.load: EngineLoad | None = None
        self.meter = LoadMeter()
        self.watchers: tuple[asyncio.Task[None], ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it may be sent requests."""
        return self.healthy and not self.address.draining


class Roster:
    """The replicas and how they are. ``changed`` is called whenever what the workers must know has changed."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._entries: dict[tuple[str, str, int], Entry] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._unseen: set[Entry] = set()

    @property
    def entries(self) -> list[Entry]:
        """In the order in which the source named them."""
        return list(self._entries.values())

    @property
    def any_ready(self) -> bool:
        """Whether some replica may be sent requests, and the workers have been told."""
        return self._settling is None and self._some_ready

    @property
    def _some_ready(self) -> bool:
        return any(entry.ready for entry in self._entries.values())

    def replace(self, addresses: Collection[ReplicaAddress]) -> None:
        """Take over a source's list. What is known of replicas that stay is kept."""
        before = self._entries
        self._entries = {}
        for address in addresses:
            entry = before.pop(address.identity, None)
            if entry is None:
                entry = Entry(address)
                entry.watchers = (
                    asyncio.create_task(self._watch_health(entry)),
                    asyncio.create_task(self._watch_load(entry)),
                )
            entry.address = address
            self._entries[address.identity] = entry
        for entry in before.values():
            for watcher in entry.watchers:
                watcher.cancel()
        self._changed()

    def look_at(self, names: Collection[str]) -> None:
        """A worker doubts these: probe them now."""
        for entry in self._entries.values():
            if entry.address.name in names:
                entry.look_now.set()

    def as_json(self) -> list[dict[str, Any]]:
        """For the workers."""
        return [
            {
                "address": entry.address.model_dump(),
                "ready": entry.ready and self._settling is None,
                "load": (entry.load.running + entry.load.waiting, entry.load.at) if entry.load else None,
            }
            for entry in self._entries.values()
        ]

    async def close(self) -> None:
        """Stop watching."""
        for timer in (self._telling, self._settling):
            if timer is not None:
                timer.cancel()
        watchers = [watcher for entry in self._entries.values() for watcher in entry.watchers]
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)

    # -- health

    async def _watch_health(self, entry: Entry) -> None:
        while True:
            entry.look_now.clear()  # before the look: a doubt that comes during it may know better
            healthy, reason = await self._probe(entry)
            if healthy != entry.healthy:
                log.info("%s is %s", entry.address.name, "ready" if healthy else f"not ready: {reason}")
                was_ready = self._some_ready
                entry.healthy, entry.reason = healthy, reason
                if entry.ready and not was_ready and self._settling is None:
                    self._look_at_others()
                self._changed()
            entry.reason = reason
            if healthy or not entry.look_now.is_set():
                self._seen(entry)
            try:
                async with asyncio.timeout(PROBE_SECONDS if entry.healthy else PROBE_DOWN_SECONDS):
                    await entry.look_now.wait()
            except TimeoutError:
                continue
            # A doubt that repeats must not turn into a probe without pause.
            await asyncio.sleep(0.02)

    def _look_at_others(self) -> None:
        """One is ready where none was: see who else is before the workers hear of it."""
        self._unseen = {
            entry for entry in self._entries.values() if not entry.healthy and not entry.address.draining
        }
        if self._unseen:
            for entry in self._unseen:
                entry.look_now.set()
            self._settling = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settled)

    def _seen(self, entry: Entry) -> None:
        self._unseen.discard(entry)
        if self._settling is not None and not self._unseen:
            self._settling.cancel()
            self._settled()

    def _settled(self) -> None:
        self._settling = None
        self._unseen.clear()
        self._changed()

    async def _probe(self, entry: Entry) -> tuple[bool, str]:
        address = entry.address
        begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                status = await health_status(address.host, address.port)
        except TimeoutError:
            # One that answers another question meanwhile is busy, not gone.
            entry.timeouts = 0 if entry.heard_at > begun else entry.timeouts + 1
            down = entry.timeouts >= TIMEOUTS_UNTIL_DOWN
            return entry.healthy and not down, f"/health silent for {PROBE_TIMEOUT_SECONDS:g} s"
        except OSError as error:
            entry.timeouts = 0
            return False, error.strerror or str(error)
        entry.timeouts = 0
        return status == 200, f"/health says {status}"

    # -- load

    async def _watch_load(self, entry: Entry) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + SCRAPE_SECONDS
            if entry.healthy:
                await self._scrape(entry)
            else:
                entry.load = None
                entry.meter.forget()
            # Soon after a replica has come up its load is known, too.
            pause = due - loop.time() if entry.healthy else PROBE_DOWN_SECONDS
            await asyncio.sleep(max(pause, SCRAPE_PAUSE_SECONDS if entry.healthy else 0.0))

    async def _scrape(self, entry: Entry) -> None:
        address = entry.address
        try:
            async with asyncio.timeout(SCRAPE_TIMEOUT_SECONDS):
                page = await metrics_page(address.host, address.port)
        except (TimeoutError, OSError) as error:  # the last load stays, and its age says how old it is
            log.debug("%s: /metrics: %s", address.name, error)
            return
        loop = asyncio.get_running_loop()
        entry.heard_at = loop.time()
        readings = read_page(page) if page is not None else None
        if readings is None:
            entry.load = None
            entry.meter.forget()
            return
        entry.load = entry.meter.observe(readings, loop.time())
        if self._telling is None:
            self._telling = loop.call_later(TELL_SECONDS, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._changed()
