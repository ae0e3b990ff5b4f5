"""One heap of what is due next, for every stream of the process, instead of a task or timer per stream."""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable


class Pacer:
    """Calls ``step`` of each play at its due time, never early; a play that is behind takes one step a turn.

    One step a turn, so that each event is a write of its own (the transport joins writes made in one turn),
    and one stream that catches up does not hold up the others.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._heap: list[tuple[float, int, Callable[[], float | None]]] = []
        self._number = 0
        self._timer: asyncio.Handle | None = None
        self._timer_due = math.inf

    def add(self, due: float, step: Callable[[], float | None]) -> None:
        """Call ``step`` at ``due`` on this pacer's clock; it returns when to call it again, if at all."""
        self._number += 1
        heapq.heappush(self._heap, (due, self._number, step))
        if due < self._timer_due:
            self._arm(due)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        delay = due - self._clock()
        # libuv counts in milliseconds and rounds: up, lest a turn is spent finding that nothing is due.
        self._timer = (
            self._loop.call_soon(self._turn)
            if delay <= 0
            else self._loop.call_later(math.ceil(delay * 1e3) / 1e3, self._turn)
        )

    def _turn(self) -> None:
        self._timer = None
        self._timer_due = -math.inf  # whatever is added meanwhile is looked at below
        heap = self._heap
        now = self._clock()
        again = []
        try:
            while heap and heap[0][0] <= now:
                _, number, step = heapq.heappop(heap)
                due = step()
                if due is not None:
                    again.append((due, number, step))
        finally:
            for entry in again:
                heapq.heappush(heap, entry)
            self._timer_due = math.inf
            if heap:
                self._arm(heap[0][0])
