"""Which replica gets a request: pure functions of what the worker knows.

A worker knows exactly what it has running itself. Of what others have running (other workers, other gateways,
clients that go past them) it knows what the engines said up to a second ago. To take that number as it is would
herd: every worker would fill the same replica until the next report; in a simulation of four workers that
spreads worse than chance. So a worker takes its own changes since the report for everybody's: one that has a
quarter of all requests counts each request that it sends, or sees end, four times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FRESH_SECONDS = 2.0
"""A report is believed whole up to this age: two scrapes."""
STALE_SECONDS = 5.0
"""From this age on it says nothing; in between it fades."""


@dataclass(slots=True, eq=False)
class Load:
    """What one worker knows of one replica when it decides: ``in_flight * multiple + others`` is its cost."""

    name: str
    in_flight: int
    """Requests that this worker has running there."""
    others: float = 0.0
    """What others have there, less what ``multiple`` makes of this worker's own at the time of the report."""
    multiple: float = 1.0
    """How many requests of all workers one request of this worker stands for."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What an engine said of itself, and what this worker had there when that came."""

    queued: int
    """Running and waiting, whoever sent them."""
    at: float
    """Seconds, monotonic."""
    own: int

    @property
    def others(self) -> int:
        """Requests there that are not this worker's."""
        return max(0, self.queued - self.own)


def freshness(age: float) -> float:
    """How far a report of this age (seconds) is believed, 1 to 0."""
    return min(1.0, max(0.0, (STALE_SECONDS - age) / (STALE_SECONDS - FRESH_SECONDS)))


def share_multiple(reports: Iterable[LoadReport], peers: int) -> float:
    """How many times this worker's own requests all requests are: 1 to ``peers``.

    ``peers`` is the number of workers that choose like this one, itself included. What goes past the gateways
    does not change because this worker does.
    """
    own = others = 0
    for report in reports:
        own += report.own
        others += report.others
    # One more than there are: with none of its own, a worker's first request is what the share is about.
    return min(float(peers), max(1.0, (own + others) / (own + 1)))


def weigh(load: Load, report: LoadReport | None, multiple: float, now: float) -> None:
    """Put what ``report`` says into ``load``, faded by its age; without one only the worker's own count."""
    fresh = freshness(now - report.at) if report is not None else 0.0
    if report is None or fresh == 0.0:
        load.others, load.multiple = 0.0, 1.0
    else:
        load.others = fresh * (report.others - (multiple - 1.0) * report.own)
        load.multiple = 1.0 + fresh * (multiple - 1.0)


def least_loaded(loads: Sequence[Load], tie: int) -> int:
    """Index of the replica with the least cost; ``tie`` (any integer) spreads equals.

    A fixed tie-break would send every first request of every worker to the same replica.

    Raises ValueError on an empty sequence.
    """
    if not loads:
        raise ValueError("no replica to choose from")
    costs = [load.in_flight * load.multiple + load.others for load in loads]
    least = min(costs)
    equals = [index for index, cost in enumerate(costs) if cost == least]
    return equals[tie % len(equals)]
