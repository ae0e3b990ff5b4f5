"""Who is in the fleet and how they are. One per gateway, in its first process; the workers get copies.

A source (the configuration, the supervisor over the admin socket) says who is there; the roster itself looks
whether they answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

from tri_serve.gateway.config import ReplicaAddress

PROBE_SECONDS = 1.0
# A replica that is down is looked at more often: how soon it is used again depends on it.
PROBE_DOWN_SECONDS = 0.25
# vLLM's /health answers late when the engine is saturated; a slow answer is no failure until it repeats.
PROBE_TIMEOUT_SECONDS = 5.0
TIMEOUTS_UNTIL_DOWN = 3

log = logging.getLogger("tri_serve.gateway")


class Entry:
    """One replica as the roster sees it."""

    def __init__(self, address: ReplicaAddress) -> None:
        self.address = address
        self.healthy = False
        self.reason = "not yet asked"
        self.timeouts = 0
        self.look_now = asyncio.Event()


class Roster:
    """The replicas and their health. ``changed`` is called whenever what the workers must know has changed."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._entries: dict[ReplicaAddress, Entry] = {}
        self._watchers: dict[ReplicaAddress, asyncio.Task[None]] = {}

    @property
    def entries(self) -> list[Entry]:
        """In the order in which the source named them."""
        return list(self._entries.values())

    @property
    def any_healthy(self) -> bool:
        """Whether some replica can answer."""
        return any(entry.healthy for entry in self._entries.values())

    def replace(self, addresses: Collection[ReplicaAddress]) -> None:
        """Take over a source's list. What is known of replicas that stay is kept."""
        entries = {address: self._entries.get(address) or Entry(address) for address in addresses}
        for address in self._entries.keys() - entries.keys():
            self._watchers.pop(address).cancel()
        self._entries = entries
        for address, entry in entries.items():
            if address not in self._watchers:
                self._watchers[address] = asyncio.get_running_loop().create_task(self._watch(entry))
        self._changed()

    def look_at(self, names: Collection[str]) -> None:
        """A worker doubts these: probe them now."""
        for entry in self._entries.values():
            if entry.address.name in names:
                entry.look_now.set()

    def as_json(self) -> list[dict[str, Any]]:
        """For the workers."""
        return [
            {"address": entry.address.model_dump(), "ready": entry.healthy}
            for entry in self._entries.values()
        ]

    async def close(self) -> None:
        """Stop watching."""
        for task in self._watchers.values():
            task.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)

    async def _watch(self, entry: Entry) -> None:
        while True:
            healthy, reason = await self._probe(entry)
            if healthy != entry.healthy:
                log.info("%s is %s", entry.address.name, "ready" if healthy else f"not ready: {reason}")
                entry.healthy, entry.reason = healthy, reason
                self._changed()
            entry.reason = reason
            entry.look_now.clear()
            try:
                async with asyncio.timeout(PROBE_SECONDS if entry.healthy else PROBE_DOWN_SECONDS):
                    await entry.look_now.wait()
            except TimeoutError:
                continue
            # A doubt that repeats must not turn into a probe without pause.
            await asyncio.sleep(0.02)

    async def _probe(self, entry: Entry) -> tuple[bool, str]:
        address = entry.address
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                status = await health_status(address.host, address.port)
        except TimeoutError:
            entry.timeouts += 1
            down = entry.timeouts >= TIMEOUTS_UNTIL_DOWN
            return entry.healthy and not down, f"/health silent for {PROBE_TIMEOUT_SECONDS:g} s"
        except OSError as error:
            entry.timeouts = 0
            return False, error.strerror or str(error)
        entry.timeouts = 0
        return status == 200, f"/health says {status}"


async def health_status(host: str, port: int) -> int:
    """The HTTP status of ``/health``. Raises OSError when there is no HTTP answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % host.encode())
        parts = (await reader.readline()).split(None, 2)
    except ValueError as error:  # a line without end
        raise OSError("the answer to /health is not HTTP") from error
    finally:
        writer.close()
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise OSError("the answer to /health is not HTTP")
    return int(parts[1])
