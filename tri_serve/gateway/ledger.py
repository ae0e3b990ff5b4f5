"""One worker's book: the replicas as the roster last told it, what it has in flight there, and whom it doubts."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from tri_serve.gateway.config import ReplicaAddress
from tri_serve.gateway.policy import Load, LoadReport, freshness, least_loaded, share_multiple, weigh

if TYPE_CHECKING:
    from tri_serve.gateway.relay import EngineConnection

# A refused connection is believed for one second; the roster's own probe (four a second while a replica is
# down) then knows better than the worker.
DOUBT_SECONDS = 1.0
# vLLM's server closes idle connections after 5 s unless told otherwise; stay under it.
IDLE_SECONDS = 4.0


class RosterItem(NamedTuple):
    """What the roster says of one replica."""

    address: ReplicaAddress
    ready: bool
    """It may be sent requests: it is healthy and not draining."""
    load: tuple[int, float] | None = None
    """Requests that its engine says it has, and when it said so (seconds, monotonic)."""


class Replica(Load):
    """One replica in the book, with its idle connections."""

    __slots__ = (
        "address",
        "doubted_until",
        "idle",
        "ready",
        "report",
        "request_head",
        "retired",
        "said_line",
    )

    def __init__(self, address: ReplicaAddress, engine_key: str | None) -> None:
        super().__init__(address.name, 0)
        self.address = address
        self.ready = False
        self.retired = False
        self.doubted_until = 0.0
        self.report: LoadReport | None = None
        self.idle: list[EngineConnection] = []
        host = f"[{address.host}]" if ":" in address.host else address.host
        key = f"authorization: Bearer {engine_key}\r\n" if engine_key else ""
        # Everything of a request's head that is the same for every request to this replica.
        self.request_head = f"host: {host}:{address.port}\r\n{key}".encode()
        self.said_line = f"x-tri-replica: {address.name}\r\n".encode()
        """Says in an answer's head who gave it."""


class Ledger:
    """The replicas that this worker may use. The roster replaces the list; counts of known replicas stay."""

    def __init__(self, engine_key: str | None, peers: int = 1) -> None:
        self._engine_key = engine_key
        self._peers = peers
        self.replicas: list[Replica] = []

    def update(self, roster: Collection[RosterItem], now: float) -> None:
        """Take over what the roster says, in its order."""
        known = {replica.address.identity: replica for replica in self.replicas}
        fresh: list[Replica] = []
        for address, ready, load in roster:
            replica = known.pop(address.identity, None) or Replica(address, self._engine_key)
            replica.address = address  # whether it drains may be new
            if ready and not replica.ready:
                replica.doubted_until = 0.0
            replica.ready = ready
            if load is None:
                replica.report = None
            elif replica.report is None or replica.report.at != load[1]:
                replica.report = LoadReport(*load, own=replica.in_flight)
            fresh.append(replica)
        for gone in known.values():
            gone.retired = True
            gone.ready = False
            for connection in gone.idle:
                connection.close()
            gone.idle.clear()
        self.replicas = fresh
        self.weigh(now)

    def weigh(self, now: float) -> None:
        """Work out what others have running where: not for every request, but when reports come or get old."""
        reports = [replica.report for replica in self.replicas if replica.report is not None]
        multiple = share_multiple(
            (report for report in reports if freshness(now - report.at) > 0.0), self._peers
        )
        for replica in self.replicas:
            weigh(replica, replica.report, multiple, now)

    @property
    def any_ready(self) -> bool:
        """Whether a request could be sent somewhere now."""
        return any(replica.ready for replica in self.replicas)

    @property
    def may_be_ready_soon(self) -> bool:
        """Whether to wait for a replica makes sense: not if every one is being drained, which is meant.

        It does with none at all: a fleet names only those that it knows to be ready, so one that starts again is
        not there, and a gateway that begins is told of its replicas a moment later.
        """
        return not self.replicas or not all(replica.address.draining for replica in self.replicas)

    def choose(self, tie: int, now: float, tried: Collection[Replica]) -> Replica | None:
        """The replica for a request, or None. One that is doubted is taken only when no other is left."""
        ready = [replica for replica in self.replicas if replica.ready]
        if tried:
            ready = [replica for replica in ready if replica not in tried]
        if not ready:
            return None
        trusted = [replica for replica in ready if replica.doubted_until <= now] or ready
        return trusted[least_loaded(trusted, tie)] if len(trusted) > 1 else trusted[0]

    def drop_idle(self, now: float) -> None:
        """Close connections that have been idle for longer than engines keep them."""
        for replica in self.replicas:
            while replica.idle and replica.idle[0].idle_since < now - IDLE_SECONDS:
                replica.idle.pop(0).close()
