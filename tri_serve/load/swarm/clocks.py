"""One time for processes that may be on several machines: that of the leader's monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tri_serve.boot import boot_id
from tri_serve.load.records import Record

_TIMES = (
    "scheduled",
    "dispatched",
    "sent",
    "head",
    "first_choice",
    "first_token",
    "last_choice",
    "last",
    "done",
)


def start_here(agreed: Mapping[str, Any]) -> int:
    """The agreed start on this process's monotonic clock.

    On the leader's machine that is the same clock. On another the wall clocks have to agree: as far as they do not,
    the machines begin apart, while every duration stays true.
    """
    start: int = agreed["start"]
    if agreed["boot"] and agreed["boot"] == boot_id():
        return start
    wall_start: int = agreed["wall_start"]
    return wall_start - time.time_ns() + time.perf_counter_ns()


def shift(record: Record, ns: int) -> None:
    """Move all its times by ``ns``; what did not happen stays 0."""
    for name in _TIMES:
        value = getattr(record, name)
        if value:
            setattr(record, name, value + ns)
    record.event_times = [at + ns for at in record.event_times]
