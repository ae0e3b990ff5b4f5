"""Work that may wait, in short turns between which the event loop reads what has come."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import gevent
from gevent.lock import Semaphore

_T = TypeVar("_T")

_TURN_NS = 200_000
"""A turn's length: how much later than it came an event may be stamped for such work."""
_SELDOM = 100
"""Collections of the middle generation for one of the oldest: after 700 thousand objects more, where CPython's own
number is after 70 thousand. Opening a thousand streams makes a hundred thousand."""


class Turns:
    """One greenlet at a time works, a turn at a time; sockets are read after each turn. For one event loop.

    ``gevent.sleep(0)`` alone is not enough: gevent runs the greenlets that wait so one after the other, and looks
    at how long that took after fifty of them (``_run_callbacks``, gevent 26). A timer comes after a look at the
    sockets.
    """

    def __init__(self) -> None:
        self._free = Semaphore(1)
        self._until = 0

    def __enter__(self) -> Turns:
        self._free.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free.release()

    def over(self, values: Iterable[_T]) -> Iterator[_T]:
        """The values, with waits in between. Only between ``__enter__`` and ``__exit__``."""
        self._rest()
        for value in values:
            yield value
            self._rest()

    def _rest(self) -> None:
        """Only with nothing in hand: whoever is killed here has lost nothing."""
        if time.perf_counter_ns() >= self._until:
            hub = gevent.get_hub()
            timer = hub.loop.timer(0)
            try:
                hub.wait(timer)
            finally:
                timer.close()
            self._until = time.perf_counter_ns() + _TURN_NS


def collect_seldom() -> None:
    """Collect garbage now, leave what is there now out of later collections, and make whole ones seldom.

    A whole collection holds the event loop up for some 20 ms with a thousand streams open. What the young
    generations' collections do is left as it is.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _SELDOM)
