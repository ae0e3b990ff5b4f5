"""Who was hit by which kill: what its victim had in hand may be lost, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .connector import Connection
from .figures import percentile
from .streams import Outcome
from .traffic import Record

# The end of a connection is seen by its client a little after the kill, never before.
_CLOCK = 0.05


@dataclass(frozen=True, slots=True)
class Death:
    """One kill, as far as connections know of it. Monotonic seconds."""

    looked: float
    """When ``ports`` was read."""
    at: float
    """When the signal had been sent."""
    ports: frozenset[int] | None
    """Client ports of the victim's connections; None: every connection was its."""
    until: float
    """When the fleet was whole again."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Requests of one load that were not answered, told apart by whether they had to be."""

    by_death: tuple[tuple[Record, ...], ...]
    """For each kill what was lost with its victim."""
    others: tuple[Record, ...]
    """What nothing explains: on a connection of a process that lived, or opened after the kill."""


def sort_losses(records: Sequence[Record], deaths: Sequence[Death]) -> Losses:
    """Give each request that was not answered to the kill that hit it."""
    found: list[list[Record]] = [[] for _ in deaths]
    others = []
    for record in records:
        if record.outcome is Outcome.OK:
            continue
        hit = next((k for k, death in enumerate(deaths) if _hit(record, death)), None)
        if hit is None or record.outcome is Outcome.WRONG:
            others.append(record)
        else:
            found[hit].append(record)
    return Losses(tuple(map(tuple, found)), tuple(others))


def _hit(record: Record, death: Death) -> bool:
    if record.opened is None or record.opened > death.at:  # a new connection may wait, and is not lost
        return False
    if death.at > record.ended + _CLOCK:
        return False
    # However late a request begins: a client hears of its kept connection's end when it writes to it.
    # A connection accepted between the look and the kill is in nobody's list.
    return death.ports is None or record.local_port in death.ports or record.opened >= death.looked


@dataclass(frozen=True, slots=True)
class Waits:
    """New connections around one kill."""

    opened: int
    """While the fleet was not whole."""
    longest: float
    """Seconds that the slowest of them waited for its answer."""
    in_hand: int
    """Opened before the kill and lost with the victim."""
    failed: tuple[Connection, ...]
    """Opened after the kill and not answered."""


def waits_of(connections: Sequence[Connection], death: Death) -> Waits:
    """What new connections met from one kill until the fleet was whole again."""
    window = [c for c in connections if death.at <= c.opened <= death.until]
    before = [c for c in connections if c.opened < death.at <= c.ended + _CLOCK]
    return Waits(
        opened=len(window),
        longest=max((c.waited for c in (*window, *before)), default=0.0),
        in_hand=sum(c.outcome in (Outcome.LOST, Outcome.STATUS) for c in before),
        failed=tuple(c for c in window if c.outcome is not Outcome.OK),
    )


def refused(connections: Sequence[Connection]) -> list[Connection]:
    """Those that were not let in at all."""
    return [c for c in connections if c.outcome is Outcome.REFUSED]


def unexplained(connections: Sequence[Connection], deaths: Sequence[Death]) -> list[Connection]:
    """Those that failed, and were not in the hand of a process that was killed."""
    return [
        c
        for c in connections
        if c.outcome is not Outcome.OK
        and (
            c.outcome in (Outcome.REFUSED, Outcome.SILENT)
            or not any(c.opened < death.at <= c.ended + _CLOCK for death in deaths)
        )
    ]


def quiet_median(connections: Sequence[Connection], deaths: Sequence[Death]) -> float:
    """The median wait of the connections that no kill was near; NaN if there are none."""
    return percentile(
        [
            c.waited
            for c in connections
            if not any(death.at - 1.0 <= c.opened <= death.until for death in deaths)
        ],
        0.5,
    )
