"""The kernel's real-time class for the thread that runs the event loop, where the user may have it.

Other programs on the client's cores then no longer make its stamps late. It takes CAP_SYS_NICE, or a limit on
real-time priority above 0 (``ulimit -r``); a control group may forbid it all the same. Linux leaves the other
classes 5% of each core (``kernel.sched_rt_runtime_us``), so that a client that never waits stops nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PRIORITY = 1
"""The lowest of the class: drivers' interrupt threads have 50."""


@contextmanager
def real_time(*, wanted: bool = True) -> Iterator[bool]:
    """Put the calling thread into the class, and back at the end. Gives whether it is in a real-time class.

    Processes and threads that it begins meanwhile are ordinary. A thread that already is in such a class, since the
    user put it there, is left as it is.
    """
    if sys.platform != "linux":
        yield False
        return
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    if before & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR):
        yield True
        return
    try:
        if wanted:
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(_PRIORITY))
    except OSError:
        wanted = False
    try:
        yield wanted
    finally:
        if wanted:
            os.sched_setscheduler(0, before, parameters)
