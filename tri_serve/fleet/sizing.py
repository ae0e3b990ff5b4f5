"""Following the load: looks at it again and again, and has the fleet resized as its rule says."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from tri_serve.errors import TriServeError
from tri_serve.fleet.autoscale import Autoscaler
from tri_serve.fleet.state import FleetPhase

if TYPE_CHECKING:
    from tri_serve.fleet.fleet import Fleet

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
"""Between two looks at the load; the gateways ask their engines as often."""
_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 600.0


class Pause:
    """How long a fleet whose added engines did not start waits before it tries again: each time twice as long."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._until = 0.0

    def over(self, now: float) -> bool:
        """Whether it may try."""
        return now >= self._until

    def failed(self, now: float) -> float:
        """Note a failure; the seconds until the next try."""
        self._seconds = min(_LONGEST_PAUSE, self._seconds * 2 or _FIRST_PAUSE)
        self._until = now + self._seconds
        return self._seconds

    def reset(self) -> None:
        """Engines start, or others are to start."""
        self._seconds = self._until = 0.0


async def keep_size(fleet: Fleet) -> None:
    """Follow the load for as long as the fleet lives, whenever its spec says so."""
    scaler: Autoscaler | None = None
    spec = None
    pause = Pause()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if fleet.spec is not spec:  # another setting may be what engines need to start
            rule = fleet.spec.fleet.autoscaling
            if spec is None or rule != spec.fleet.autoscaling:
                scaler = Autoscaler(rule, time.monotonic) if rule else None
            spec = fleet.spec
            pause.reset()
        if scaler is None or fleet.phase is not FleetPhase.RUNNING:
            continue
        load, count = await fleet.load(), len(fleet.replicas)
        if not load.known:  # they may serve where the supervisor cannot reach them
            continue
        wanted = scaler.observe(load.waiting_and_running, count)
        if wanted == count or (wanted > count and not pause.over(time.monotonic())):
            continue
        try:
            await fleet.resize(wanted)
        except TriServeError as error:
            seconds = pause.failed(time.monotonic())
            log.warning("the fleet keeps its %d replicas for another %g s: %s", count, seconds, error)
        else:
            pause.reset()
