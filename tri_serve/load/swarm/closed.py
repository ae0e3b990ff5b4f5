"""What the users of a closed loop share in one process: how many requests are left, and patience with failures."""

from __future__ import annotations

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0


def part_of(requests: int, users: int, worker: int, workers: int) -> int:
    """Of so many requests in all, those of one process: as many as it has users for. The parts add up exactly."""

    def before(process: int) -> int:
        """Users of the processes before this one; user u is played by process u mod workers."""
        return sum(len(range(other, users, workers)) for other in range(process))

    return requests * before(worker + 1) // users - requests * before(worker) // users


class Numbers:
    """Hands out the requests of the window, one by one, when they are sent."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        """None: there is no end of them."""
        self.handed = 0
        self.open = 0
        """Requests or conversations that have not ended, those of the warm-up too."""

    def take(self) -> bool:
        """Whether one more may be sent."""
        if self.all_out:
            return False
        self.handed += 1
        return True

    @property
    def all_out(self) -> bool:
        """Whether none is left."""
        return self.most is not None and self.handed >= self.most


class BackOff:
    """A user's pauses after failures, 0.1 s doubled up to 1 s: a server that refuses at once is not stormed."""

    def __init__(self) -> None:
        self._pause = 0.0

    def after(self, *, failed: bool) -> float:
        """Seconds to wait after a request."""
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause or _FIRST_PAUSE) if failed else 0.0
        return self._pause
