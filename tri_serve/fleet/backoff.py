"""When a dead process is started again, and when that is given up. Pure: times go in, times come out."""

from __future__ import annotations

from dataclasses import dataclass

_DOUBLINGS = 60
"""Past these every delay is the longest one; a power of them is a number still."""


@dataclass
class RestartBackoff:
    """Exponential delays; a process that stayed up for ``steady`` seconds starts with a clean record."""

    limit: int | None = 5
    """Failures in a row that make a crash loop: what fails five times the same way will fail a sixth time. None: it
    is never given up."""
    steady: float = 60.0
    """Seconds of readiness after which a death is a new misfortune, not the old one again."""
    first: float = 0.5
    factor: float = 2.0
    longest: float = 30.0
    failures: int = 0

    def failed(self, ready_seconds: float) -> float | None:
        """Note a death after ``ready_seconds`` of readiness; the delay until the next start, None to give up."""
        if ready_seconds >= self.steady:
            self.failures = 0
        self.failures += 1
        if self.limit is not None and self.failures >= self.limit:
            return None
        return min(self.longest, self.first * self.factor ** min(self.failures - 1, _DOUBLINGS))

    def reset(self) -> None:
        """Forget the past: somebody asked for a restart."""
        self.failures = 0
