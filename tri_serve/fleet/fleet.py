"""A fleet: what it is made of, how it starts, what is known of it, how it stops. Runs in one asyncio loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from tri_serve.errors import FleetError, GatewayStartError, TriServeError
from tri_serve.fleet.background import go_on
from tri_serve.fleet.changes import Changes
from tri_serve.fleet.convergence import Convergence
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.keys import check_exposure, client_key_hashes
from tri_serve.fleet.load import FleetLoad
from tri_serve.fleet.order import EngineOrder, Prepare
from tri_serve.fleet.parts import GatewayPart, ReplicaPart, Runtime
from tri_serve.fleet.prepare import prepare
from tri_serve.fleet.release import LOG_BYTES, ReleasePaths
from tri_serve.fleet.sizing import keep_size
from tri_serve.fleet.state import (
    ErrorState,
    FleetPhase,
    FleetState,
    GatewayState,
    ReplicaPhase,
    SupervisorState,
    write_private,
)
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress
from tri_serve.process import logs
from tri_serve.process.ports import bind_listener
from tri_serve.process.strays import sweep
from tri_serve.spec.gateway import GatewaySpec
from tri_serve.spec.models import Spec

log = logging.getLogger(__name__)

_HOUSEKEEPING = 10.0
_KILLED_SECONDS = 15.0
"""For a cluster to be left when its agents are dead; it takes some three."""
Progress = Callable[[str], None]


def base_url(spec: Spec) -> str:
    """Where clients of this machine connect; an address that means "all" is not one to connect to."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(  # noqa: S104 -- not a bind
        spec.gateway.host, spec.gateway.host
    )
    return f"http://[{host}]:{spec.gateway.port}" if ":" in host else f"http://{host}:{spec.gateway.port}"


def _url(gateways: Sequence[GatewayState]) -> str | None:
    """Of a gateway that answers, if one does."""
    known = sorted((gateway for gateway in gateways if gateway.url), key=lambda gateway: not gateway.ready)
    return known[0].url if known else None


async def _stop_each(parts: Sequence[GatewayPart | ReplicaPart]) -> None:
    """Until all have stopped; one that fails at it keeps nothing else from its end."""
    results = await asyncio.gather(*(part.stop() for part in parts), return_exceptions=True)
    for part, result in zip(parts, results, strict=True):
        if isinstance(result, Exception):
            log.error("%s was not stopped in order: %r", part.name, result)


def checked_client_keys(
    gateway: GatewaySpec, environment_hashes: Mapping[str, str], *, may_lock: bool = False
) -> dict[str, str]:
    """What a gateway is to be told; the file may be another one than when `up` checked it."""
    hashes = client_key_hashes(gateway, environment_hashes, may_lock=may_lock)
    check_exposure(gateway, len(hashes))
    return hashes


class Fleet:
    """Everything that a release runs."""

    def __init__(
        self,
        paths: ReleasePaths,
        desired: Desired,
        runtime: Runtime,
        *,
        token: str,
        prepare_spec: Prepare = prepare,
    ) -> None:
        self.spec = desired.spec
        self.paths = paths
        self.phase = FleetPhase.STARTING
        self.environment_hashes = desired.environment_hashes
        self.replicas: list[ReplicaPart] = []
        self.gateways: Sequence[GatewayPart] = ()
        self.draining: set[str] = set()
        """Names of replicas that get no new work, though their engines run."""
        self.desired_replicas = desired.spec.fleet.initial_replicas
        """Engines that the fleet is to have: those that leave are left out, those on their way counted."""
        self.announce: Progress = log.info
        self._leaving: list[ReplicaPart] = []
        self._runtime = runtime
        self._supervisor = SupervisorState.current(token)
        self._prepare = prepare_spec
        self._error: ErrorState | None = None
        self._changed = asyncio.Event()
        self._convergence = Convergence(self)
        self._stopped: asyncio.Task[None] | None = None
        self._killing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # -- starting ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind the socket, then start gateways and engines; returns when each of them has begun to.

        Raises ResourceError, EngineEnvironmentError, CheckpointError, SpecError before anything is started.
        """
        hashes = checked_client_keys(self.spec.gateway, self.environment_hashes)
        local = self.spec.fleet.target == "local"
        if local:
            await self.check(self.spec)
        listener = bind_listener(self.spec.gateway.host, self.spec.gateway.port) if local else None
        self._tasks = [
            go_on(self._keep_state_file(), "state file"),
            go_on(self._keep_house(), "housekeeping"),
        ]
        await self._runtime.start()
        self.gateways = self._runtime.gateways(
            self.gateway_config(self.spec, hashes), listener, self.on_change
        )
        # The engines take longest: they go first.
        self.add_replicas(self.spec.fleet.initial_replicas, self.spec)
        await self._runtime.engines_begun()
        for gateway in self.gateways:
            gateway.begin()

    async def check(self, spec: Spec) -> None:
        """Find everything that engines of ``spec`` are started from, where they run. Raises what is missing."""
        if spec.fleet.target == "local":
            await asyncio.to_thread(self._prepare, spec)
        else:
            await self._runtime.check(spec, self.announce)

    async def wait_started(self) -> None:
        """Until every replica has been ready and the gateways would pass a request on.

        Raises EngineStartError or GatewayStartError at the first failure: what does not start the first time
        is told at once, not retried in the dark.
        """

        def settled() -> bool:
            failed = any(r.phase in (ReplicaPhase.WAITING, ReplicaPhase.FAILED) for r in self.replicas)
            failed = failed or any(gateway.phase == "waiting" for gateway in self.gateways)
            running = all(gateway.phase == "running" for gateway in self.gateways)
            return failed or (running and all(r.ready for r in self.replicas))

        def serving() -> bool:
            return any(gateway.phase == "running" for gateway in self.gateways)

        if self._runtime.takes_over:  # it may serve with some parts away, which come back by themselves
            await self.until(lambda: settled() and serving())
            self._is_running()
            return
        await self.until(settled)
        for replica in self.replicas:
            if not replica.ready and replica.error is not None:
                raise replica.error
        for gateway in self.gateways:
            if gateway.phase != "running":
                raise gateway.error or GatewayStartError(f"{gateway.name} did not start")
            if not await gateway.wait_ready(within=15.0):
                raise GatewayStartError(f"{gateway.name} does not see the engines, though they are ready")
        self._is_running()

    def _is_running(self) -> None:
        self.phase = FleetPhase.RUNNING
        self.write_applied()
        self._tasks.append(go_on(keep_size(self), "autoscaling"))
        self.on_change()

    def fail(self, error: TriServeError) -> None:
        """Remember why the fleet could not be started."""
        self._error = ErrorState.of(error)

    # -- asking -----------------------------------------------------------------------------------------

    async def load(self) -> FleetLoad:
        """What the gateways say of themselves and of the engines, now."""
        answers = await asyncio.gather(*(gateway.status() for gateway in self.gateways))
        return FleetLoad(dict(zip((gateway.name for gateway in self.gateways), answers, strict=True)))

    async def state(self) -> FleetState:
        """What runs now, as gateways and engines say it."""
        return self._state(await self.load())

    def _state(self, load: FleetLoad) -> FleetState:
        engine = self.spec.engine
        scaling = self.spec.fleet.autoscaling
        gateways = tuple(gateway.state(load.statuses.get(gateway.name)) for gateway in self.gateways)
        return FleetState(
            release=self.paths.release,
            phase=self.phase,
            target=self.spec.fleet.target,
            url=_url(gateways) or base_url(self.spec),
            model=self.spec.model.served_name,
            source=self.spec.model.source,
            engine=f"{engine.kind} {engine.version}",
            supervisor=self._supervisor,
            ray=self._runtime.state(),
            replicas=tuple(
                replica.state().model_copy(
                    update=load.of_replica(replica.name)
                    | ({"phase": ReplicaPhase.DRAINING} if self.drains(replica) else {})
                )
                for replica in self.replicas
            ),
            desired_replicas=self.desired_replicas,
            autoscaling=(scaling.min, scaling.max) if scaling else None,
            gateways=gateways,
            error=self._error,
        )

    @property
    def applied(self) -> Desired:
        """What the fleet was last asked for, and is."""
        return Desired(spec=self.spec, environment_hashes=self.environment_hashes)

    @property
    def given_up(self) -> bool:
        """Whether Ray died too often: nothing of the fleet comes back before it is started anew."""
        ray = self._runtime.state()
        return ray is not None and ray.phase == "failed"

    def drains(self, replica: ReplicaPart) -> bool:
        """Whether its engine runs but gets no new work."""
        return replica.ready and replica.name in self.draining

    # -- changing (see convergence.py) ------------------------------------------------------------------

    def changes_to(self, desired: Desired) -> Changes:
        """What applying ``desired`` would do."""
        return self._convergence.changes_to(desired)

    async def apply(self, desired: Desired, progress: Progress) -> Changes:
        """Get to ``desired`` with as little disturbance as it takes; what fails is taken back, and raised."""
        return await self._convergence.apply(desired, progress)

    async def resize(self, count: int) -> None:
        """Another number of replicas, as the load wants it. Raises what kept added engines from starting."""
        await self._convergence.resize(count)

    async def restart(self, name: str | None, progress: Progress) -> None:
        """Restart one replica, a gateway, or (None) every replica, one after the other.

        Raises UsageError for a name that is not there, EngineStartError if an engine does not come back.
        """
        await self._convergence.restart(name, progress)

    # -- stopping ---------------------------------------------------------------------------------------

    @property
    def patience(self) -> float:
        """Seconds in which an orderly stop ends, at the latest."""
        return self.spec.gateway.timeouts.drain + self.spec.engine.shutdown_timeout + 25.0

    async def stop(self, within: float | None, progress: Progress) -> None:
        """Gateways first, so that running answers end; then engines. After ``within`` seconds all is killed."""
        if self._stopped is None:
            self.phase = FleetPhase.STOPPING
            self.on_change()
            self._stopped = asyncio.create_task(self._stop_in_order(progress), name="stop")
        limit = self.patience if within is None else within
        done, _ = await asyncio.wait([self._stopped], timeout=limit)
        if not done:
            progress(f"not all had ended after {limit:g} s: killing the rest")
            if self._killing is None:  # a command and the supervisor itself may both be here
                self._killing = asyncio.create_task(self._kill(self._stopped), name="kill")
            await asyncio.wait([self._killing])
            self._killing.result()
        await self._stopped

    async def _kill(self, stopping: asyncio.Task[None]) -> None:
        try:
            await self._runtime.kill()
            if self.spec.fleet.target == "ray":
                # Those parts end by themselves now; the bridge, which the sweep would find, sees to it.
                await asyncio.wait([stopping], timeout=_KILLED_SECONDS)
        except FleetError as error:
            log.warning("not all could be killed: %s", error)
        await sweep(self._supervisor.token, grace=0.0)

    async def _stop_in_order(self, progress: Progress) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.gateways:
            running = (await self.load()).requests
            drain = self.spec.gateway.timeouts.drain
            progress(
                f"gateway: {running} request{'' if running == 1 else 's'} running, up to {drain:g} s to finish"
                if running
                else "gateway: stopping"
            )
            await _stop_each(self.gateways)
        if self.replicas:
            progress("engines: stopping")
        await _stop_each([*self.replicas, *self._leaving])
        await self._runtime.stop()

    # -- the parts --------------------------------------------------------------------------------------

    def gateway_config(self, spec: Spec, hashes: dict[str, str]) -> GatewayConfig:
        """What a gateway of this fleet is told."""
        return GatewayConfig(
            release=self.paths.release,
            gateways=max(1, len(self.gateways)),
            served_models=(spec.model.served_name,),
            workers=spec.gateway.workers,
            timeouts=spec.gateway.timeouts,
            limits=spec.gateway.limits,
            admin_socket=self.paths.admin_socket(0),
            admin_port=spec.gateway.admin_port or 0,
            client_key_hashes=hashes,
            engine_key=self._runtime.engine_key,
        )

    def order(self, number: int, spec: Spec) -> EngineOrder:
        """What the engines of a place are made from."""
        own_process = spec.fleet.supervisor == "process"
        return EngineOrder(
            spec=spec,
            engine_key=self._runtime.engine_key,
            number=number,
            own_gpus=own_process,
            host="node" if spec.fleet.target == "ray" else "127.0.0.1",
            replicas_here=spec.fleet.most_replicas,
        )

    def add_replicas(self, count: int, spec: Spec) -> list[ReplicaPart]:
        """Replicas up to ``count``, begun; returns the new ones."""
        taken = {replica.name for replica in self.replicas}
        free = (number for number in range(count + len(taken)) if f"replica-{number}" not in taken)
        added = [
            self._runtime.replica(f"replica-{number}", self.order(number, spec), self.on_change)
            for number, _ in zip(free, range(count - len(taken)), strict=False)
        ]
        self.replicas += added
        for replica in added:
            replica.begin()
        return added

    async def remove(self, replica: ReplicaPart) -> None:
        """Stop a replica, and have it no more; a stop of the fleet waits for its end, too."""
        if replica in self.replicas:
            self.replicas.remove(replica)
        self.draining.discard(replica.name)
        self._leaving.append(replica)
        self.on_change()
        await replica.stop()
        self._leaving.remove(replica)

    def on_change(self) -> None:
        """Tell the gateways who is there, and wake whoever waits for something."""
        for replica in self.replicas:
            if not replica.ready:
                self.draining.discard(replica.name)
        roster = self._roster()
        for gateway in self.gateways:
            gateway.set_roster(roster)
        self._changed.set()
        self._changed = asyncio.Event()

    def _roster(self) -> list[ReplicaAddress]:
        states = [replica.state() for replica in self.replicas if replica.ready]
        return [
            ReplicaAddress(
                name=state.name, host=state.host, port=state.port, draining=state.name in self.draining
            )
            for state in states
            if state.host is not None and state.port is not None
        ]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a state of the parts."""
        while True:
            changed = self._changed
            if condition():
                return
            await changed.wait()

    # -- on disk, and over time -------------------------------------------------------------------------

    def write_state(self) -> None:
        """Write state.json as it is now; a full disk is logged and lived with."""
        try:
            write_private(self.paths.state, self._state(FleetLoad({})).model_dump_json(indent=2) + "\n")
        except OSError as error:
            log.warning("cannot write %s: %s", self.paths.state, error)

    def write_applied(self) -> None:
        """Write the spec as it is applied now."""
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

    def require_gateways(self) -> Sequence[GatewayPart]:
        """The gateways. Raises FleetError before they are there."""
        if not self.gateways:
            raise FleetError(f"release {self.paths.release} is still being prepared")
        return self.gateways

    def known_hashes(self) -> Mapping[str, Any]:
        """Client keys that the gateways were told."""
        return self.require_gateways()[0].config.client_key_hashes
