"""Open loop: each request is begun when it is due, whatever else runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from tri_serve.load.records import Phase

LATEST_NS = 1_000_000_000
"""A request that would be begun later than this is not sent: the load would be another than the one described.
Below it, lateness is measured and counts in every figure from schedule."""

_NEAR_NS = 1_200_000
"""The event loop's timers have a grain of 1 ms (libev gives epoll whole milliseconds): this near to the time, the
dispatcher turns the loop instead of sleeping, and other requests go on meanwhile."""


class Arrival(Protocol):
    """One entry of the schedule."""

    @property
    def index(self) -> int: ...
    @property
    def at(self) -> float:
        """Seconds after the start."""
        ...

    @property
    def phase(self) -> Phase: ...


class Dispatcher:
    """Walks a process's share of the schedule.

    ``send(arrival, due)`` begins one request and returns at once; ``drop(arrival, due, why)`` notes one that is not
    sent. ``open_now`` says how many are open; ``most`` is how many may be.
    """

    def __init__(
        self,
        send: Callable[[Any, int], None],
        drop: Callable[[Any, int, str], None],
        open_now: Callable[[], int],
        most: int,
        *,
        clock: Callable[[], int],
        sleep: Callable[[float], object],
    ) -> None:
        self._send = send
        self._drop = drop
        self._open_now = open_now
        self._most = most
        self._clock = clock
        self._sleep = sleep

    def run(self, arrivals: Iterable[Arrival], start: int) -> None:
        """Send all of them, the times counted from ``start`` (ns on the clock)."""
        for arrival in arrivals:
            due = start + round(arrival.at * 1e9)
            now = self._wait_until(due)
            if self._open_now() >= self._most:
                self._drop(
                    arrival, due, f"{self._most} requests of this process were open, its share of most_open"
                )
            elif now - due > LATEST_NS:
                self._drop(arrival, due, f"its time had passed by {(now - due) / 1e9:.1f} s")
            else:
                self._send(arrival, due)

    def _wait_until(self, due: int) -> int:
        """The time at which it returns, at or after ``due``."""
        while (now := self._clock()) < due:
            left = due - now
            self._sleep((left - _NEAR_NS) / 1e9 if left > _NEAR_NS else 0)
        return now
