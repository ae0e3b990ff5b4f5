"""One worker's book: the replicas as the roster last told it, what it has in flight there, and whom it doubts."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from tri_serve.gateway.config import ReplicaAddress
from tri_serve.gateway.policy import Load, least_loaded

if TYPE_CHECKING:
    from tri_serve.gateway.relay import EngineConnection

# A refused connection is believed for one second; the roster's own probe (four a second while a replica is
# down) then knows better than the worker.
DOUBT_SECONDS = 1.0
# vLLM's server closes idle connections after 5 s unless told otherwise; stay under it.
IDLE_SECONDS = 4.0


class Replica(Load):
    """One replica in the book, with its idle connections."""

    __slots__ = ("address", "doubted_until", "idle", "ready", "request_head", "retired")

    def __init__(self, address: ReplicaAddress, engine_key: str | None) -> None:
        super().__init__(address.name, 0)
        self.address = address
        self.ready = False
        self.retired = False
        self.doubted_until = 0.0
        self.idle: list[EngineConnection] = []
        host = f"[{address.host}]" if ":" in address.host else address.host
        key = f"authorization: Bearer {engine_key}\r\n" if engine_key else ""
        # Everything of a request's head that is the same for every request to this replica.
        self.request_head = f"host: {host}:{address.port}\r\n{key}".encode()


class Ledger:
    """The replicas that this worker may use. The roster replaces the list; counts of known replicas stay."""

    def __init__(self, engine_key: str | None) -> None:
        self._engine_key = engine_key
        self.replicas: list[Replica] = []

    def update(self, roster: Collection[tuple[ReplicaAddress, bool]]) -> None:
        """Take over what the roster says: (address, ready) for each replica, in its order."""
        known = {replica.address: replica for replica in self.replicas}
        fresh: list[Replica] = []
        for address, ready in roster:
            replica = known.pop(address, None) or Replica(address, self._engine_key)
            if ready and not replica.ready:
                replica.doubted_until = 0.0
            replica.ready = ready
            fresh.append(replica)
        for gone in known.values():
            gone.retired = True
            gone.ready = False
            for connection in gone.idle:
                connection.close()
            gone.idle.clear()
        self.replicas = fresh

    @property
    def any_ready(self) -> bool:
        """Whether a request could be sent somewhere now."""
        return any(replica.ready for replica in self.replicas)

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
