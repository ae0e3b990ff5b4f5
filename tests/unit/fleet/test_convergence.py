"""Changes of a running fleet and its stop, with parts that only pretend."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import EngineStartError, FleetError, GatewayStartError, TriServeError
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.fleet import Fleet
from tri_serve.fleet.order import EngineOrder
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import FleetPhase, GatewayState, RayState, ReplicaPhase, ReplicaState
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress
from tri_serve.spec.models import Spec

RAYS: dict[str, dict[str, str]] = {"local": {}, "ray": {"address": "10.0.0.1:6379"}}
"""``fleet.ray`` by target."""


class PretendReplica:
    """Its engine is ready as soon as it is begun or renewed, unless the replica is to hold still."""

    def __init__(self, name: str, order: EngineOrder, on_change: Callable[[], None]) -> None:
        self.name = name
        self.order = order
        self.error: TriServeError | None = None
        self.lives = 0
        self.phase = ReplicaPhase.STARTING
        self.holds_still = False
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self._on_change = on_change

    @property
    def ready(self) -> bool:
        return self.phase is ReplicaPhase.READY

    def state(self) -> ReplicaState:
        return ReplicaState(
            name=self.name, phase=self.phase, since=0.0, host="127.0.0.1", port=1000, lives=self.lives, log=""
        )

    def begin(self) -> None:
        if not self.holds_still:
            self.lives += 1
            self.enter(ReplicaPhase.READY)

    def renew(self, order: EngineOrder) -> None:
        self.order = order
        self.begin()

    def restart(self) -> None:
        self.begin()

    async def stop(self) -> None:
        await self.may_stop.wait()
        self.enter(ReplicaPhase.STOPPED)

    def enter(self, phase: ReplicaPhase) -> None:
        self.phase = phase
        self._on_change()


class PretendGateway:
    """Says what it is told to say."""

    phase = "running"
    error: TriServeError | None = None

    def __init__(self, config: GatewayConfig, name: str = "gateway") -> None:
        self.name = name
        self.config = config
        self.address: tuple[str, int] | None = None
        self.refuses = False
        """Whatever it is to be next."""
        self.replaced = 0
        self.closed = False
        self.running = 0
        self.answers = True
        self.asked = 0
        self.ended: list[str] = []
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.roster: tuple[ReplicaAddress, ...] = ()

    def begin(self) -> None:
        """Nothing to start."""

    def set_roster(self, roster: Sequence[ReplicaAddress]) -> None:
        self.roster = tuple(roster)

    async def roster_told(self, *, within: float = 5.0) -> None:
        """At once."""

    async def wait_ready(self, *, within: float) -> bool:
        return True

    async def status(self) -> dict[str, Any] | None:
        self.asked += 1
        if not self.answers:
            return None
        replicas = [{"name": replica.name, "in_flight": self.running} for replica in self.roster]
        return {"ready": True, "workers": [{"in_flight": self.running}], "replicas": replicas}

    def state(self, status: dict[str, Any] | None) -> GatewayState:
        return GatewayState(phase="running", since=0.0, log="")

    async def end_streams(self, replica: str) -> None:
        self.ended.append(replica)
        self.running = 0

    async def replace(
        self,
        config: GatewayConfig,
        listener: socket.socket | None = None,
        *,
        address: tuple[str, int] | None = None,
    ) -> None:
        if listener is not None:
            listener.close()
        if self.refuses:
            raise GatewayStartError(f"{self.name} does not start")
        self.config, self.address, self.closed = config, address or self.address, False
        self.replaced += 1

    async def close_listener(self) -> None:
        self.closed = True

    def reopen(self, listener: socket.socket) -> None:
        self.closed = False
        listener.close()

    def restart(self) -> None:
        """It never fails."""

    async def stop(self) -> None:
        await self.may_stop.wait()


class PretendRuntime:
    """Makes the parts, and keeps them for the test."""

    engine_key = "secret"
    takes_over = False

    def __init__(self) -> None:
        self.made: list[PretendReplica] = []
        self.gateway: PretendGateway
        self.more: tuple[PretendGateway, ...] = ()
        self.given_up = False
        self.stopped = False

    async def start(self) -> None:
        """Always up."""

    async def check(self, spec: Spec, progress: Callable[[str], None]) -> None:
        """All is there."""

    async def engines_begun(self) -> None:
        """All are new."""

    async def kill(self) -> None:
        """Nothing runs."""

    def replica(self, name: str, order: EngineOrder, on_change: Callable[[], None]) -> PretendReplica:
        self.made.append(PretendReplica(name, order, on_change))
        return self.made[-1]

    def gateways(
        self, config: GatewayConfig, listener: socket.socket | None, on_change: Callable[[], None]
    ) -> Sequence[PretendGateway]:
        if listener is not None:
            listener.close()
        self.gateway = PretendGateway(config)
        if listener is None:  # a cluster of three nodes
            self.more = tuple(PretendGateway(config, f"gateway@{node}") for node in "ab")
        return (self.gateway, *self.more)

    def state(self) -> RayState | None:
        return RayState(phase="failed", error="Ray died") if self.given_up else None

    async def stop(self) -> None:
        self.stopped = True


def play(
    tmp_path: Path,
    replicas: int,
    scenario: Callable[[Fleet, PretendRuntime], Awaitable[None]],
    drain: float = 30,
    target: str = "local",
) -> list[str]:
    """A running fleet on which the scenario is played; what it was told of progress."""
    said: list[str] = []

    async def run() -> None:
        spec = Spec.model_validate(
            {
                "model": {"source": "tri-tiny-gptq", "served_name": "tri"},
                "fleet": {"replicas": replicas, "target": target, "ray": RAYS[target]},
                "gateway": {"port": free_port(), "timeouts": {"drain": drain}},
            }
        )
        paths = ReleasePaths(tmp_path)
        paths.create()
        runtime = PretendRuntime()
        fleet = Fleet(paths, Desired(spec=spec), runtime, token="token", prepare_spec=lambda _: None)  # type: ignore[arg-type,return-value]
        async with asyncio.timeout(10):
            await fleet.start()
            await fleet.wait_started()
            await scenario(fleet, runtime)
            await fleet.stop(None, said.append)

    asyncio.run(run())
    return said


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def soon(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def test_a_stop_during_a_rolling_restart_leaves_running_answers_their_time(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        gateway = runtime.gateway
        gateway.running = 3
        gateway.may_stop.clear()  # it drains
        restarting = asyncio.create_task(fleet.restart("replica-0", lambda _: None))
        await soon(lambda: gateway.asked > 1)
        stopping = asyncio.create_task(fleet.stop(None, lambda _: None))
        with pytest.raises(FleetError, match="stopped"):
            await restarting
        assert [replica.lives for replica in runtime.made] == [1, 1]
        gateway.may_stop.set()
        await stopping

    play(tmp_path, 2, scenario)


def test_a_gateway_that_does_not_answer_is_not_taken_for_an_idle_one(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        gateway = runtime.gateway
        gateway.running, gateway.answers = 3, False
        restarting = asyncio.create_task(fleet.restart("replica-0", lambda _: None))
        await soon(lambda: gateway.asked > 2)
        assert runtime.made[0].lives == 1
        gateway.answers = True
        await asyncio.sleep(0.3)
        assert runtime.made[0].lives == 1
        gateway.running = 0
        await restarting
        assert runtime.made[0].lives == 2

    play(tmp_path, 2, scenario)


def test_a_stop_waits_for_replicas_that_were_on_their_way_out(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        leaving = runtime.made[1]
        leaving.may_stop.clear()
        change = asyncio.create_task(fleet.resize(1))
        await soon(lambda: len(fleet.replicas) == 1)
        change.cancel()  # as the stop does with what follows the load
        stopping = asyncio.create_task(fleet.stop(None, lambda _: None))
        await asyncio.sleep(0.1)
        assert not runtime.stopped
        leaving.may_stop.set()
        await stopping
        assert leaving.phase is ReplicaPhase.STOPPED

    play(tmp_path, 2, scenario)


def test_a_restart_ends_when_ray_is_given_up(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        replica = runtime.made[0]
        replica.holds_still = True
        restarting = asyncio.create_task(fleet.restart("replica-0", lambda _: None))
        await asyncio.sleep(0.05)
        replica.error = EngineStartError("Ray died")
        replica.enter(ReplicaPhase.WAITING)
        runtime.given_up = True
        fleet.on_change()
        with pytest.raises(TriServeError, match="Ray"):
            await restarting
        assert fleet.phase is FleetPhase.RUNNING

    play(tmp_path, 2, scenario)


def test_a_change_that_waited_for_its_turn_leaves_a_stop_alone(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        gateway = runtime.gateway
        gateway.running = 1
        gateway.may_stop.clear()
        first = asyncio.create_task(fleet.restart("replica-0", lambda _: None))
        await soon(lambda: gateway.asked > 1)
        more = fleet.spec.model_copy(update={"fleet": fleet.spec.fleet.model_copy(update={"replicas": 3})})
        second = asyncio.create_task(fleet.apply(Desired(spec=more), lambda _: None))
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(fleet.stop(None, lambda _: None))
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(result) for result in results] == [FleetError, FleetError]
        assert fleet.phase is FleetPhase.STOPPING
        gateway.may_stop.set()
        await stopping
        assert len(runtime.made) == 2

    play(tmp_path, 2, scenario)


def test_a_part_that_fails_to_stop_keeps_nothing_else_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        async def fails() -> None:
            raise TriServeError("lost")

        monkeypatch.setattr(runtime.made[0], "stop", fails)
        await fleet.stop(None, lambda _: None)
        assert runtime.made[1].phase is ReplicaPhase.STOPPED
        assert runtime.stopped

    play(tmp_path, 2, scenario)


def test_what_runs_elsewhere_is_killed_while_there_is_still_somebody_to_say_it_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        done: list[str] = []
        runtime.gateway.may_stop.clear()  # it drains

        async def kill() -> None:
            done.append("kill")
            runtime.gateway.may_stop.set()

        async def sweep(_token: str, *, grace: float) -> tuple[int, ...]:
            done.append(f"sweep, left: {runtime.stopped}")
            return ()

        monkeypatch.setattr(runtime, "kill", kill)
        monkeypatch.setattr("tri_serve.fleet.fleet.sweep", sweep)
        # A command and the supervisor itself.
        await asyncio.gather(*(fleet.stop(0.05, lambda _: None) for _ in range(2)))
        assert done == ["kill", "sweep, left: True"]

    play(tmp_path, 2, scenario, target="ray")


def changed(fleet: Fleet, environment_hashes: dict[str, str] | None = None, **gateway: Any) -> Desired:
    """What runs, with another gateway."""
    other = Spec.model_validate(
        fleet.spec.model_dump() | {"gateway": fleet.spec.gateway.model_dump() | gateway}
    )
    return Desired(spec=other, environment_hashes=environment_hashes or {})


def test_a_gateway_that_cannot_be_restarted_keeps_none_from_knowing_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        runtime.gateway.refuses = True
        fleet.environment_hashes = {"only": "0" * 64}
        with pytest.raises(GatewayStartError, match="gateway does not start"):
            await fleet.restart("gateway", lambda _: None)
        assert [g.config.client_key_hashes for g in runtime.more] == [{"only": "0" * 64}] * 2

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    play(tmp_path, 1, scenario, target="ray")


def test_every_gateway_of_a_cluster_is_told_the_new_address(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        changes = await fleet.apply(changed(fleet, host="127.0.0.2", port=8123), lambda _: None)
        assert changes.listener
        assert [g.address for g in (runtime.gateway, *runtime.more)] == [("127.0.0.2", 8123)] * 3

    play(tmp_path, 1, scenario, target="ray")


def test_a_move_that_one_node_refuses_is_taken_back_on_the_others(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        old, before = fleet.spec.gateway, runtime.gateway.config
        runtime.more[0].refuses = True
        with pytest.raises(GatewayStartError, match="gateway@a"):
            await fleet.apply(changed(fleet, port=8123), lambda _: None)
        assert fleet.spec.gateway == old
        for gateway in (runtime.gateway, runtime.more[1]):
            assert (gateway.address, gateway.config) == ((old.host, old.port), before)
        assert runtime.more[0].replaced == 0

    play(tmp_path, 1, scenario, target="ray")


def test_a_key_that_was_taken_back_stays_so_where_it_could_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        await fleet.apply(changed(fleet, {"a": "0" * 64, "b": "1" * 64}), lambda _: None)
        runtime.more[0].refuses = True
        fewer = changed(fleet, {"a": "0" * 64})
        with pytest.raises(GatewayStartError, match="gateway@a"):
            await fleet.apply(fewer, lambda _: None)
        assert runtime.more[1].config.client_key_hashes == {"a": "0" * 64}
        runtime.more[0].refuses = False
        assert fleet.changes_to(fewer).gateway  # one of them has to be told still
        await fleet.apply(fewer, lambda _: None)
        assert runtime.more[0].config.client_key_hashes == {"a": "0" * 64}
        assert not fleet.changes_to(fewer)

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    play(tmp_path, 1, scenario, target="ray")


def test_a_socket_that_was_closed_for_a_move_is_opened_again_if_that_fails(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, runtime: PretendRuntime) -> None:
        runtime.gateway.refuses = True
        with socket.create_server((fleet.spec.gateway.host, fleet.spec.gateway.port)):  # until it has died
            changing = asyncio.create_task(fleet.apply(changed(fleet, host="127.0.0.2"), lambda _: None))
            await asyncio.sleep(0.3)
            assert not changing.done()
        with pytest.raises(GatewayStartError):
            await changing
        assert not runtime.gateway.closed

    play(tmp_path, 1, scenario)
