"""How many requests a process has open, and how many it had on average in the window."""

from __future__ import annotations


class InFlight:
    """Counts what is open, and integrates it over the window: N of Little's law, measured and not derived.

    Times are ns on CLOCK_MONOTONIC. ``begin`` and ``end`` bound the window; what is open outside it is not summed.
    """

    def __init__(self, begin: int, end: int) -> None:
        self.open = 0
        self.most = 0
        self._begin = begin
        self._end = end
        self._since = begin
        self._sum = 0

    def enter(self, now: int) -> None:
        """One more is open."""
        self._advance(now)
        self.open += 1
        self.most = max(self.most, self.open)

    def leave(self, now: int) -> None:
        """One has ended."""
        self._advance(now)
        self.open -= 1

    def mean(self, now: int) -> float | None:
        """Open requests on average from the window's begin to ``now`` or its end; None before it began."""
        self._advance(now)
        passed = min(now, self._end) - self._begin
        return self._sum / passed if passed > 0 else None

    def _advance(self, now: int) -> None:
        clipped = min(max(now, self._begin), self._end)
        if clipped > self._since:
            self._sum += (clipped - self._since) * self.open
            self._since = clipped
