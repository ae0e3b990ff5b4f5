"""A fleet on this machine: the listening socket, the gateway process and the replicas, in one asyncio loop."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from tri_serve.engine.engine import Engine
from tri_serve.errors import EngineStartError, FleetError, GatewayStartError, TriServeError, UsageError
from tri_serve.fleet.changes import Changes, spec_changes
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.gateway_process import GatewayProcess
from tri_serve.fleet.keys import check_exposure, client_key_hashes
from tri_serve.fleet.prepare import ENGINE_HOST, Prepared, prepare
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.replica import EngineLike, MakeEngine, Replica
from tri_serve.fleet.state import (
    ErrorState,
    FleetPhase,
    FleetState,
    ReplicaPhase,
    SupervisorState,
    write_private,
)
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress
from tri_serve.process import logs
from tri_serve.process.ports import bind_listener, free_port
from tri_serve.process.strays import sweep
from tri_serve.spec.gateway import GatewaySpec
from tri_serve.spec.models import Spec

log = logging.getLogger(__name__)

LOG_BYTES = 16 * 1024 * 1024
"""Each log keeps this much, and as much again in <name>.log.1."""
_HOUSEKEEPING = 10.0
_ON_THE_WAY = (ReplicaPhase.STARTING, ReplicaPhase.LOADING, ReplicaPhase.WARMING)
Progress = Callable[[str], None]
Prepare = Callable[[Spec], Prepared]


def base_url(spec: Spec) -> str:
    """Where clients of this machine connect; an address that means "all" is not one to connect to."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(  # noqa: S104 -- not a bind
        spec.gateway.host, spec.gateway.host
    )
    return f"http://[{host}]:{spec.gateway.port}" if ":" in host else f"http://{host}:{spec.gateway.port}"


def _client_keys(
    gateway: GatewaySpec, environment_hashes: Mapping[str, str], *, may_lock: bool = False
) -> dict[str, str]:
    """What a gateway is to be told; the file may be another one than when `up` checked it."""
    hashes = client_key_hashes(gateway, environment_hashes, may_lock=may_lock)
    check_exposure(gateway, len(hashes))
    return hashes


class LocalFleet:
    """Everything that a release runs on this machine."""

    def __init__(
        self, paths: ReleasePaths, desired: Desired, *, token: str, prepare_spec: Prepare = prepare
    ) -> None:
        self.spec = desired.spec
        self.paths = paths
        self.phase = FleetPhase.STARTING
        self._supervisor = SupervisorState.current(token)
        self._environment_hashes = desired.environment_hashes
        self._prepare = prepare_spec
        self._engine_key = secrets.token_urlsafe(32)
        self._gateway: GatewayProcess | None = None
        self._replicas: list[Replica] = []
        self._error: ErrorState | None = None
        self._changed = asyncio.Event()
        self._changing = asyncio.Lock()
        self._stopped: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._announce: Progress = log.info

    # -- starting ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind the socket, then start gateway and engines; returns when each of them has begun to.

        Raises ResourceError, EngineEnvironmentError, CheckpointError, SpecError before anything is started.
        """
        hashes = _client_keys(self.spec.gateway, self._environment_hashes)
        prepared = await asyncio.to_thread(self._prepare, self.spec)
        listener = bind_listener(self.spec.gateway.host, self.spec.gateway.port)
        self._gateway = GatewayProcess(
            self.paths, listener, self._gateway_config(self.spec, hashes), on_change=self._on_change
        )
        self._gateway.begin()
        self._add_replicas(self.spec.fleet.replicas, self._maker(prepared))
        self._tasks = [
            asyncio.create_task(self._keep_state_file(), name="state file"),
            asyncio.create_task(self._keep_house(), name="housekeeping"),
        ]

    async def wait_started(self) -> None:
        """Until every replica has been ready and the gateway would pass a request on.

        Raises EngineStartError or GatewayStartError at the first failure: what does not start the first time
        is told at once, not retried in the dark.
        """
        gateway = self._running_gateway()

        def settled() -> bool:
            failed = any(r.phase in (ReplicaPhase.WAITING, ReplicaPhase.FAILED) for r in self._replicas)
            done = all(r.ready for r in self._replicas) and gateway.phase == "running"
            return failed or done or gateway.phase in ("waiting", "failed")

        await self._until(settled)
        for replica in self._replicas:
            if not replica.ready and replica.error is not None:
                raise replica.error
        if gateway.phase != "running":
            raise gateway.error or GatewayStartError("the gateway did not start")
        if not await gateway.wait_ready(within=15.0):
            raise GatewayStartError("the gateway does not see the engines, though they are ready")
        self.phase = FleetPhase.RUNNING
        self._write_applied()
        self._on_change()

    def fail(self, error: TriServeError) -> None:
        """Remember why the fleet could not be started."""
        self._error = ErrorState.of(error)

    # -- asking -----------------------------------------------------------------------------------------

    async def state(self) -> FleetState:
        """What runs now, as gateway and engines say it."""
        status = await self._gateway.status() if self._gateway else None
        return self._state(status)

    def _state(self, status: dict[str, Any] | None) -> FleetState:
        load = {r.get("name"): r.get("in_flight") for r in (status or {}).get("replicas", [])}
        engine = self.spec.engine
        return FleetState(
            release=self.paths.release,
            phase=self.phase,
            url=base_url(self.spec),
            model=self.spec.model.served_name,
            source=self.spec.model.source,
            engine=f"{engine.kind} {engine.version}",
            supervisor=self._supervisor,
            replicas=tuple(
                replica.state().model_copy(update={"in_flight": load.get(replica.name)})
                for replica in self._replicas
            ),
            gateways=(self._gateway.state(status),) if self._gateway else (),
            error=self._error,
        )

    # -- changing ---------------------------------------------------------------------------------------

    def changes_to(self, desired: Desired) -> Changes:
        """What applying ``desired`` would do."""
        hashes = client_key_hashes(desired.spec.gateway, desired.environment_hashes)
        known = self._running_gateway().config.client_key_hashes
        return spec_changes(
            self.spec, desired.spec, keys_changed=hashes != known, keys_gone=bool(known) and not hashes
        )

    async def apply(self, desired: Desired, progress: Progress) -> Changes:
        """Get to ``desired`` with as little disturbance as it takes; what fails is taken back, and raised."""
        self._say_if_busy(progress)
        async with self._changing:
            changes = self.changes_to(desired)
            if not changes:
                return changes
            self.phase = FleetPhase.CHANGING
            self._on_change()
            self._announce = progress
            try:
                await self._carry_out(desired, changes)
                self.spec = desired.spec
                self._environment_hashes = desired.environment_hashes
                self._write_applied()
            finally:
                if self.phase is FleetPhase.CHANGING:  # else it is being stopped meanwhile
                    self.phase = FleetPhase.RUNNING
                self._announce = log.info
                self._on_change()
            return changes

    async def _carry_out(self, desired: Desired, changes: Changes) -> None:
        new = desired.spec
        hashes = _client_keys(new.gateway, desired.environment_hashes)
        prepared = await asyncio.to_thread(self._prepare, new)
        before = [(replica, replica.make_engine) for replica in self._replicas]
        moved = None
        same_port = new.gateway.port == self.spec.gateway.port
        if changes.listener and not same_port:
            moved = bind_listener(new.gateway.host, new.gateway.port)
        try:
            if changes.engines:
                await self._replace_engines(self._maker(prepared))
            if changes.replicas:
                await self._scale(changes.replicas[1], self._maker(prepared))
            if changes.gateway:
                await self._replace_gateway(
                    self._gateway_config(new, hashes), moved, rebind=changes.listener and same_port, spec=new
                )
        except TriServeError:
            if moved is not None:
                moved.close()
            await self._take_back(before)
            raise

    async def _replace_engines(self, make: MakeEngine) -> None:
        for replica in self._replicas:
            self._announce(f"{replica.name}: draining and replacing its engine")
            await self._renew(replica, make)

    async def _take_back(self, before: Sequence[tuple[Replica, MakeEngine]]) -> None:
        """Undo what a change that failed has done to the engines; they come back in the background."""
        if self.phase is not FleetPhase.CHANGING:  # it failed because the fleet is being stopped
            return
        while len(self._replicas) > len(before):
            replica = self._replicas.pop()
            self._on_change()
            await replica.stop()
        for replica, make in before:
            if replica in self._replicas and replica.make_engine is not make:
                self._announce(f"{replica.name}: going back to its earlier engine")
                replica.make_engine = make
                replica.restart()
        self._add_replicas(len(before), before[0][1])

    async def _renew(self, replica: Replica, make: MakeEngine) -> None:
        """Another engine in the replica; raises its error if it does not become ready."""
        replica.make_engine = make
        before = replica.lives
        replica.restart()
        ended = (ReplicaPhase.READY, ReplicaPhase.WAITING, ReplicaPhase.FAILED)

        def settled() -> bool:
            stopped = replica.phase is ReplicaPhase.STOPPED
            return stopped or (replica.lives > before and replica.phase in ended)

        await self._watch([replica], settled)
        if not replica.ready:
            raise replica.error or EngineStartError(f"{replica.name} was stopped before it was ready")
        self._announce(f"{replica.name}: ready")

    async def _scale(self, count: int, make: MakeEngine) -> None:
        while len(self._replicas) > count:
            replica = self._replicas.pop()
            self._announce(f"{replica.name}: draining and stopping")
            self._on_change()
            await replica.stop()
            self._announce(f"{replica.name}: stopped")
        added = self._add_replicas(count, make)
        for replica in added:
            self._announce(f"{replica.name}: starting")
        ended = (ReplicaPhase.WAITING, ReplicaPhase.FAILED)
        await self._watch(added, lambda: all(r.ready for r in added) or any(r.phase in ended for r in added))
        failed = [replica for replica in added if not replica.ready]
        if failed:
            for replica in added:
                self._replicas.remove(replica)
            await asyncio.gather(*(replica.stop() for replica in added))
            error = next((r.error for r in failed if r.error is not None), None)
            raise error or EngineStartError("the added engines did not start")
        for replica in added:
            self._announce(f"{replica.name}: ready")

    async def _watch(self, replicas: Sequence[Replica], settled: Callable[[], bool]) -> None:
        """Until ``settled``; announces meanwhile how far the engines are."""
        known = {replica.name: replica.phase for replica in replicas}

        def look() -> bool:
            for replica in replicas:
                if replica.phase is not known[replica.name]:
                    known[replica.name] = replica.phase
                    if replica.phase in _ON_THE_WAY:
                        self._announce(f"{replica.name}: engine {replica.phase}")
            return settled()

        await self._until(look)

    async def _replace_gateway(
        self, config: GatewayConfig, moved: socket.socket | None, *, rebind: bool, spec: Spec
    ) -> None:
        gateway = self._running_gateway()
        self._announce("gateway: replacing its process")
        if rebind:  # another address, same port: the two sockets exclude each other
            await gateway.close_listener()
            try:
                await gateway.replace(config, bind_listener(spec.gateway.host, spec.gateway.port))
            except TriServeError:
                old = self.spec.gateway
                await gateway.replace(gateway.config, bind_listener(old.host, old.port))
                raise
        else:
            await gateway.replace(config, moved)
        await gateway.roster_told()
        self._announce("gateway: running")

    async def restart(self, name: str | None, progress: Progress) -> None:
        """Restart one replica, the gateway, or (None) every replica, one after the other.

        Raises UsageError for a name that is not there, EngineStartError if an engine does not come back.
        """
        self._say_if_busy(progress)
        async with self._changing:
            gateway = self._running_gateway()
            self._announce = progress
            try:
                if name == "gateway":
                    hashes = _client_keys(self.spec.gateway, self._environment_hashes, may_lock=True)
                    gateway.restart()
                    await self._replace_gateway(
                        self._gateway_config(self.spec, hashes), None, rebind=False, spec=self.spec
                    )
                    return
                chosen = [replica for replica in self._replicas if name in (None, replica.name)]
                if not chosen:
                    names = ", ".join(["gateway", *(replica.name for replica in self._replicas)])
                    raise UsageError(f"release {self.paths.release} has no {name!r}; it has: {names}")
                for replica in chosen:
                    progress(f"{replica.name}: draining and restarting")
                    await self._renew(replica, replica.make_engine)
            finally:
                self._announce = log.info

    # -- stopping ---------------------------------------------------------------------------------------

    @property
    def patience(self) -> float:
        """Seconds in which an orderly stop ends, at the latest."""
        return self.spec.gateway.timeouts.drain + self.spec.engine.shutdown_timeout + 20.0

    async def stop(self, within: float | None, progress: Progress) -> None:
        """Gateway first, so that running answers end; then engines. After ``within`` seconds all is killed."""
        if self._stopped is None:
            self.phase = FleetPhase.STOPPING
            self._on_change()
            self._stopped = asyncio.create_task(self._stop_in_order(progress), name="stop")
        limit = self.patience if within is None else within
        done, _ = await asyncio.wait([self._stopped], timeout=limit)
        if not done:
            progress(f"not all had ended after {limit:g} s: killing the rest")
            await sweep(self._supervisor.token, grace=0.0)
        await self._stopped

    async def _stop_in_order(self, progress: Progress) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._gateway is not None:
            status = await self._gateway.status()
            running = sum(worker.get("in_flight", 0) for worker in (status or {}).get("workers", []))
            drain = self.spec.gateway.timeouts.drain
            progress(
                f"gateway: {running} request{'' if running == 1 else 's'} running, up to {drain:g} s to finish"
                if running
                else "gateway: stopping"
            )
            await self._gateway.stop()
        if self._replicas:
            progress("engines: stopping")
        await asyncio.gather(*(replica.stop() for replica in self._replicas))

    # -- inside -----------------------------------------------------------------------------------------

    def _say_if_busy(self, progress: Progress) -> None:
        if self._changing.locked():
            progress(f"{self.paths.release}: another change is under way; waiting for its end")

    def _running_gateway(self) -> GatewayProcess:
        if self._gateway is None:
            raise FleetError(f"release {self.paths.release} is still being prepared")
        return self._gateway

    def _gateway_config(self, spec: Spec, hashes: dict[str, str]) -> GatewayConfig:
        return GatewayConfig(
            release=self.paths.release,
            served_models=(spec.model.served_name,),
            workers=spec.gateway.workers,
            timeouts=spec.gateway.timeouts,
            limits=spec.gateway.limits,
            admin_socket=self.paths.admin_socket(0),
            admin_port=spec.gateway.admin_port or 0,
            client_key_hashes=hashes,
            engine_key=self._engine_key,
        )

    def _maker(self, prepared: Prepared) -> MakeEngine:
        """How engines of that spec are made: each on a free port of its own."""
        engine_spec = prepared.spec.engine

        def make(name: str, on_change: Callable[[Any], None]) -> tuple[EngineLike, int]:
            taken = {replica.port for replica in self._replicas}
            while (port := free_port(ENGINE_HOST)) in taken:
                pass
            engine = Engine(
                prepared.launch(port=port, api_key=self._engine_key),
                name=name,
                log=self.paths.log(name),
                served_name=prepared.spec.model.served_name,
                start_timeout=engine_spec.start_timeout,
                shutdown_timeout=engine_spec.shutdown_timeout,
                on_change=on_change,
            )
            return engine, port

        return make

    def _add_replicas(self, count: int, make: MakeEngine) -> list[Replica]:
        """Replicas up to ``count``, begun; returns the new ones."""
        added = [
            Replica(
                f"replica-{number}",
                make,
                log_file=self.paths.log(f"replica-{number}"),
                on_change=self._on_change,
                drained=self._drained,
            )
            for number in range(len(self._replicas), count)
        ]
        self._replicas += added
        for replica in added:
            replica.begin()
        return added

    async def _drained(self, name: str) -> None:
        """The replica has left the roster; the engine finishes what it still has when it is stopped."""
        await self._running_gateway().roster_told()

    def _on_change(self) -> None:
        if self._gateway is not None:
            self._gateway.set_roster(
                [
                    ReplicaAddress(name=replica.name, host=ENGINE_HOST, port=replica.port)
                    for replica in self._replicas
                    if replica.ready and replica.port is not None
                ]
            )
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while True:
            changed = self._changed
            if condition():
                return
            await changed.wait()

    def write_state(self) -> None:
        """Write state.json as it is now; a full disk is logged and lived with."""
        try:
            write_private(self.paths.state, self._state(None).model_dump_json(indent=2) + "\n")
        except OSError as error:
            log.warning("cannot write %s: %s", self.paths.state, error)

    def _write_applied(self) -> None:
        text = yaml.safe_dump(self.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        first = "# Written by `tri-serve up`: the spec as it was last applied, every default filled in.\n"
        try:
            write_private(self.paths.spec, first + text)
        except OSError as error:
            log.warning("cannot write %s: %s", self.paths.spec, error)

    async def _keep_state_file(self) -> None:
        while True:
            changed = self._changed
            await asyncio.to_thread(self.write_state)
            await changed.wait()
            await asyncio.sleep(0.1)  # changes come in groups

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING)
            for file in self.paths.logs.glob("*.log"):
                try:
                    await asyncio.to_thread(logs.rotate, file, LOG_BYTES)
                except OSError as error:
                    log.warning("cannot rotate %s: %s", file, error)
