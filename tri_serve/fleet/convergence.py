"""Getting a running fleet from one spec to another: one change at a time, nothing lost, undone if it fails."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from tri_serve.errors import EngineStartError, FleetError, ResourceError, TriServeError, UsageError
from tri_serve.fleet.changes import Changes, spec_changes, wanted_replicas
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.keys import client_key_hashes
from tri_serve.fleet.order import EngineOrder
from tri_serve.fleet.parts import Address, GatewayPart, ReplicaPart
from tri_serve.fleet.state import FleetPhase, ReplicaPhase
from tri_serve.gateway.config import GatewayConfig
from tri_serve.process.ports import bind_listener
from tri_serve.spec.models import Spec

if TYPE_CHECKING:
    from tri_serve.fleet.fleet import Fleet, Progress

log = logging.getLogger(__name__)

_ON_THE_WAY = (ReplicaPhase.STARTING, ReplicaPhase.LOADING, ReplicaPhase.WARMING)
_ENDED = (ReplicaPhase.READY, ReplicaPhase.WAITING, ReplicaPhase.FAILED)
_DRAIN_POLL = 0.1
_REBIND_SECONDS = 15.0
_ENDING_SECONDS = 5.0
"""After the drain deadline: for the gateways to end the streams that were still running."""


async def _bound_again(host: str, port: int) -> socket.socket:
    """A listening socket where one was before. Raises ResourceError if somebody else has taken its place.

    A gateway that dies with its Ray holds the socket that was to follow for some seconds more.
    """
    deadline = time.monotonic() + _REBIND_SECONDS
    while True:
        try:
            return bind_listener(host, port)
        except ResourceError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_DRAIN_POLL)


class Convergence:
    """Applies changes to a fleet, one after the other."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._changing = asyncio.Lock()

    def changes_to(self, desired: Desired) -> Changes:
        """What applying ``desired`` would do."""
        fleet = self._fleet
        hashes = client_key_hashes(desired.spec.gateway, desired.environment_hashes)
        known = fleet.known_hashes()
        return spec_changes(
            fleet.spec,
            desired.spec,
            running=fleet.desired_replicas,
            keys_changed=any(g.config.client_key_hashes != hashes for g in fleet.require_gateways()),
            keys_gone=bool(known) and not hashes,
        )

    async def apply(self, desired: Desired, progress: Progress) -> Changes:
        """Get to ``desired``; what fails is taken back, and raised."""
        fleet = self._fleet
        self._say_if_busy(progress)
        async with self._changing:
            self._check_goes_on()
            changes = self.changes_to(desired)
            changes.check(fleet.paths.release)
            if not changes:
                return changes
            fleet.phase = FleetPhase.CHANGING
            fleet.on_change()
            fleet.announce = progress
            try:
                await self._carry_out(desired, changes)
                fleet.spec = desired.spec
                fleet.environment_hashes = desired.environment_hashes
                fleet.write_applied()
            finally:
                self._change_is_over()
            return changes

    async def resize(self, count: int) -> None:
        """Another number of replicas of the same spec. Raises what kept added engines from starting.

        Nothing happens during another change: what the load wanted before it says nothing afterwards.
        """
        fleet = self._fleet
        if self._changing.locked():
            return
        async with self._changing:
            if fleet.phase is not FleetPhase.RUNNING:
                return
            fleet.phase = FleetPhase.CHANGING
            log.info("from %d to %d replicas", len(fleet.replicas), count)
            try:
                await self._scale(count, fleet.spec)
            finally:
                self._change_is_over()

    async def restart(self, name: str | None, progress: Progress) -> None:
        """Restart one replica, a gateway, or (None) every replica, one after the other."""
        from tri_serve.fleet.fleet import checked_client_keys

        fleet = self._fleet
        self._say_if_busy(progress)
        async with self._changing:
            self._check_goes_on()
            fleet.announce = progress
            try:
                gateways = [g for g in fleet.require_gateways() if name in (g.name, "gateway")]
                if gateways:
                    hashes = checked_client_keys(fleet.spec.gateway, fleet.environment_hashes, may_lock=True)
                    config = fleet.gateway_config(fleet.spec, hashes)
                    for gateway in gateways:
                        gateway.restart()
                    await self._replace_gateways(gateways, lambda g: self._replace_gateway(g, config))
                    return
                chosen = [replica for replica in fleet.replicas if name in (None, replica.name)]
                if not chosen:
                    names = ", ".join([g.name for g in fleet.gateways] + [r.name for r in fleet.replicas])
                    raise UsageError(f"release {fleet.paths.release} has no {name!r}; it has: {names}")
                for replica in chosen:
                    progress(f"{replica.name}: draining and restarting")
                    await self._renew(replica, replica.order)
            finally:
                fleet.announce = log.info

    # -- inside -----------------------------------------------------------------------------------------

    def _say_if_busy(self, progress: Progress) -> None:
        if self._changing.locked():
            progress(f"{self._fleet.paths.release}: another change is under way; waiting for its end")

    def _check_goes_on(self) -> None:
        """Raises FleetError if the fleet is being stopped: what it still has runs to its end undisturbed."""
        if self._fleet.phase is FleetPhase.STOPPING:
            raise FleetError(f"release {self._fleet.paths.release} is being stopped")

    def _change_is_over(self) -> None:
        fleet = self._fleet
        if fleet.phase is FleetPhase.CHANGING:  # else it is being stopped meanwhile
            fleet.phase = FleetPhase.RUNNING
        fleet.announce = log.info
        fleet.on_change()

    async def _carry_out(self, desired: Desired, changes: Changes) -> None:
        from tri_serve.fleet.fleet import checked_client_keys

        fleet, new = self._fleet, desired.spec
        hashes = checked_client_keys(new.gateway, desired.environment_hashes)
        await fleet.check(new)
        before = [(replica, replica.order) for replica in fleet.replicas]
        gateways = [(gateway, gateway.config) for gateway in fleet.require_gateways()]
        moved = None
        same_port = new.gateway.port == fleet.spec.gateway.port
        if changes.listener and not same_port and new.fleet.target == "local":
            moved = bind_listener(new.gateway.host, new.gateway.port)
        try:
            if changes.engines:
                for replica in list(fleet.replicas):
                    fleet.announce(f"{replica.name}: draining and replacing its engine")
                    await self._renew(replica, fleet.order(replica.order.number, new))
            count = wanted_replicas(new, len(fleet.replicas))
            if count != len(fleet.replicas):
                await self._scale(count, new)
            if changes.gateway:
                config = fleet.gateway_config(new, hashes)
                # Elsewhere than here, each binds its own socket.
                address = (new.gateway.host, new.gateway.port) if new.fleet.target == "ray" else None
                rebinds = changes.listener and same_port and address is None

                def replace(gateway: GatewayPart) -> Awaitable[None]:
                    if rebinds:
                        return self._rebind_gateway(gateway, config, new)
                    return self._replace_gateway(gateway, config, moved, address)

                await self._replace_gateways(fleet.require_gateways(), replace)
        except (TriServeError, OSError):
            if moved is not None:
                moved.close()
            await self._take_back(before)
            if (new.gateway, new.model) != (fleet.spec.gateway, fleet.spec.model):
                await self._take_back_gateways(gateways)
            elif any(gateway.config is not config for gateway, config in gateways):
                # It was about client keys alone: one that was disabled is not to be let in again.
                fleet.environment_hashes = desired.environment_hashes
            raise

    async def _take_back(self, before: Sequence[tuple[ReplicaPart, EngineOrder]]) -> None:
        """Undo what a change that failed has done to the engines; they come back in the background."""
        fleet = self._fleet
        if fleet.phase is not FleetPhase.CHANGING:  # it failed because the fleet is being stopped
            return
        known = [replica for replica, _ in before]
        for replica in [replica for replica in fleet.replicas if replica not in known]:
            await fleet.remove(replica)
        for replica, order in before:
            if replica in fleet.replicas and replica.order is not order:
                fleet.announce(f"{replica.name}: going back to its earlier engine")
                replica.renew(order)
        fleet.desired_replicas = len(before)
        fleet.add_replicas(len(before), before[0][1].spec)

    async def _take_back_gateways(self, before: Sequence[tuple[GatewayPart, GatewayConfig]]) -> None:
        """Undo what a change that failed has done to gateways, which are several on a cluster."""
        fleet = self._fleet
        old = fleet.spec.gateway
        address = (old.host, old.port) if fleet.spec.fleet.target == "ray" else None
        for gateway, config in before:
            if gateway.config is config or fleet.phase is not FleetPhase.CHANGING:
                continue
            fleet.announce(f"{gateway.name}: going back to its earlier setting")
            try:
                await gateway.replace(config, address=address)
            except TriServeError as error:
                log.warning("%s: %s", gateway.name, error)

    async def _renew(self, replica: ReplicaPart, order: EngineOrder) -> None:
        """Another engine in the replica; raises its error if it does not become ready."""
        fleet = self._fleet
        await self.drain(replica)
        self._check_goes_on()
        before = replica.lives
        if order is replica.order:
            replica.restart()
        else:
            replica.renew(order)

        def settled() -> bool:
            stopped = replica.phase is ReplicaPhase.STOPPED
            return stopped or (replica.lives > before and replica.phase in _ENDED)

        await self._watch([replica], settled)
        if not replica.ready:
            raise replica.error or EngineStartError(f"{replica.name} was stopped before it was ready")
        fleet.announce(f"{replica.name}: ready")

    async def drain(self, replica: ReplicaPart) -> None:
        """No new work for it, then until nothing runs there; at the deadline what still runs is ended.

        Ended means: a stream gets its API's error event, anything else is asked of another replica.
        """
        fleet = self._fleet
        if not replica.ready:
            return
        fleet.draining.add(replica.name)
        fleet.on_change()
        await asyncio.gather(*(gateway.roster_told() for gateway in fleet.gateways))
        if await self._idle(replica, fleet.spec.gateway.timeouts.drain):
            return
        fleet.announce(f"{replica.name}: its drain time is over; what still runs there is ended")
        await asyncio.gather(*(gateway.end_streams(replica.name) for gateway in fleet.gateways))
        await self._idle(replica, _ENDING_SECONDS)

    async def _idle(self, replica: ReplicaPart, seconds: float) -> bool:
        """Until nothing runs on the replica; False if something still does after so many seconds."""
        fleet = self._fleet
        deadline = time.monotonic() + seconds
        said = -1
        while replica.ready:
            self._check_goes_on()
            load = await fleet.load()
            running = load.of_replica(replica.name).get("in_flight") or 0
            # A gateway that runs and does not answer may have anything there.
            if not running and all(load.statuses[g.name] for g in fleet.gateways if g.phase == "running"):
                return True
            if time.monotonic() >= deadline:
                return False
            if running != said:
                said = running
                fleet.announce(f"{replica.name}: draining, {running} request{'s' * (running != 1)} running")
            await asyncio.sleep(_DRAIN_POLL)
        return True

    async def _scale(self, count: int, spec: Spec) -> None:
        fleet = self._fleet
        fleet.desired_replicas = count
        fleet.on_change()
        leaving = sorted(fleet.replicas, key=lambda replica: replica.order.number)[count:]
        await asyncio.gather(*(self._remove(replica) for replica in leaving))
        self._check_goes_on()
        added = fleet.add_replicas(count, spec)
        for replica in added:
            fleet.announce(f"{replica.name}: starting")
        failed_in = (ReplicaPhase.WAITING, ReplicaPhase.FAILED)
        await self._watch(
            added, lambda: all(r.ready for r in added) or any(r.phase in failed_in for r in added)
        )
        failed = [replica for replica in added if not replica.ready]
        if failed:
            fleet.desired_replicas = len(fleet.replicas) - len(added)
            await asyncio.gather(*(fleet.remove(replica) for replica in added))
            error = next((r.error for r in failed if r.error is not None), None)
            raise error or EngineStartError("the added engines did not start")
        for replica in added:
            fleet.announce(f"{replica.name}: ready")

    async def _remove(self, replica: ReplicaPart) -> None:
        fleet = self._fleet
        fleet.announce(f"{replica.name}: draining and stopping")
        await self.drain(replica)
        await fleet.remove(replica)
        fleet.announce(f"{replica.name}: stopped")

    async def _watch(self, replicas: Sequence[ReplicaPart], settled: Callable[[], bool]) -> None:
        """Until ``settled``, or Ray is given up; announces meanwhile how far the engines are."""
        known = {replica.name: replica.phase for replica in replicas}

        def look() -> bool:
            for replica in replicas:
                if replica.phase is not known[replica.name]:
                    known[replica.name] = replica.phase
                    if replica.phase in _ON_THE_WAY:
                        self._fleet.announce(f"{replica.name}: engine {replica.phase}")
            return settled() or self._fleet.given_up

        await self._fleet.until(look)

    async def _replace_gateways(
        self,
        gateways: Sequence[GatewayPart],
        replace: Callable[[GatewayPart], Awaitable[None]],
    ) -> None:
        """One after the other, all of them whichever fails; the first failure is raised at the end."""
        failures: list[TriServeError] = []
        for gateway in gateways:
            self._check_goes_on()
            try:
                await replace(gateway)
            except TriServeError as error:
                log.warning("%s: %s", gateway.name, error)
                failures.append(error)
        if failures:
            raise failures[0]

    async def _replace_gateway(
        self,
        gateway: GatewayPart,
        config: GatewayConfig,
        moved: socket.socket | None = None,
        address: Address | None = None,
    ) -> None:
        self._fleet.announce(f"{gateway.name}: replacing its process")
        await gateway.replace(config, moved, address=address)
        await gateway.roster_told()
        self._announce_phase(gateway)

    def _announce_phase(self, gateway: GatewayPart) -> None:
        away = "" if gateway.phase == "running" else "; it is told when it is back"
        self._fleet.announce(f"{gateway.name}: {gateway.phase}{away}")

    async def _rebind_gateway(self, gateway: GatewayPart, config: GatewayConfig, new: Spec) -> None:
        """Another address with the same port: the two sockets exclude each other."""
        self._fleet.announce(f"{gateway.name}: replacing its process")
        await gateway.close_listener()
        old = self._fleet.spec.gateway
        try:
            await gateway.replace(config, bind_listener(new.gateway.host, new.gateway.port))
        except TriServeError:
            gateway.reopen(await _bound_again(old.host, old.port))
            raise
        await gateway.roster_told()
        self._announce_phase(gateway)
