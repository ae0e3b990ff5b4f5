"""What the supervisor keeps of its parts in Ray, with a bridge and agents that only pretend."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import FleetError, UsageError
from tri_serve.fleet.control import ControlServer, Progress
from tri_serve.fleet.order import EngineOrder
from tri_serve.fleet.ray.client import BridgeLostError, ask_bridge
from tri_serve.fleet.ray.messages import EngineNews, digest
from tri_serve.fleet.ray.remote_gateway import RemoteGateway
from tri_serve.fleet.ray.remote_replica import RemoteReplica
from tri_serve.fleet.ray.runtime import RayRuntime
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import ReplicaPhase, ReplicaState
from tri_serve.gateway.config import GatewayConfig
from tri_serve.spec.models import Spec


def runtime_in(folder: Path) -> RayRuntime:
    """A private Ray that counts as running; its bridge is what listens on the socket."""
    spec = Spec.model_validate({"model": {"source": "tri-tiny-gptq", "served_name": "tri"}})
    runtime = RayRuntime(spec, ReleasePaths(folder))
    runtime._phase = "running"
    return runtime


async def bridge_of(
    runtime: RayRuntime, commands: Mapping[str, Callable[[Mapping[str, Any]], Any]]
) -> ControlServer:
    def answering(command: Callable[[Mapping[str, Any]], Any]) -> Any:
        async def answer(request: Mapping[str, Any], _progress: Progress) -> Any:
            return command(request)

        return answer

    server = ControlServer(runtime._socket, {name: answering(each) for name, each in commands.items()})
    await server.start()
    runtime._up.set()
    return server


def raising(error: Exception) -> Callable[[Mapping[str, Any]], Any]:
    def command(_request: Mapping[str, Any]) -> Any:
        raise error

    return command


@pytest.mark.parametrize(
    "error", [TimeoutError("not deleted after 60 s"), UsageError("no"), KeyError("name")]
)
def test_whatever_the_bridge_meets_is_what_those_who_ask_expect(tmp_path: Path, error: Exception) -> None:
    async def scenario() -> None:
        runtime = runtime_in(tmp_path)
        server = await bridge_of(runtime, {"delete": raising(error)})
        with pytest.raises(FleetError) as caught:
            await ask_bridge(runtime._socket, "delete", name="x")
        assert not isinstance(caught.value, BridgeLostError)
        await server.close()

    asyncio.run(scenario())


def test_a_part_that_is_ended_while_the_bridge_is_away_is_ended_when_it_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        runtime = runtime_in(tmp_path)
        ending = asyncio.create_task(runtime.end("replica-1", 5.0))
        await asyncio.sleep(0.1)
        assert not ending.done()
        asked: list[Any] = []
        server = await bridge_of(
            runtime,
            {
                "call": lambda request: asked.append((request["method"], request["within"])),
                "delete": lambda request: asked.append(request["name"]),
            },
        )
        await asyncio.wait_for(ending, 5)
        assert asked == [("stop", 5.0), runtime.application("replica-1")]
        await server.close()

    asyncio.run(scenario())


def test_a_part_of_a_ray_that_died_needs_no_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        runtime = runtime_in(tmp_path)
        ending = asyncio.create_task(runtime.end("replica-1", 5.0))
        await asyncio.sleep(0.05)
        runtime._phase = "waiting"
        await asyncio.wait_for(ending, 5)

    asyncio.run(scenario())


def test_a_gateway_that_cannot_be_moved_keeps_its_socket(tmp_path: Path) -> None:
    async def scenario() -> None:
        runtime = runtime_in(tmp_path)  # no bridge: every call fails
        runtime._phase = "waiting"  # and none that comes back
        config = GatewayConfig(release="r", served_models=("tri",), admin_socket=tmp_path / "admin")
        old, new = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        gateway = RemoteGateway(
            runtime, "gateway", config, old, host="127.0.0.1", port=1, on_change=lambda: None
        )
        gateway._gone.clear()
        with pytest.raises(BridgeLostError):
            await gateway.replace(config, new)
        assert gateway._shared is not None
        assert gateway._shared.listener is old
        assert old.fileno() >= 0
        assert new.fileno() < 0
        old.close()

    asyncio.run(scenario())


class PretendChild:
    """A process that ends when it may."""

    def __init__(self) -> None:
        self.pid = 0
        self.asked = 0
        self.may_end = asyncio.Event()

    async def stop(self, *, grace: float) -> int:
        self.asked += 1
        await self.may_end.wait()
        return 0


def test_a_stop_while_a_dead_ray_is_cleared_away_waits_for_its_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        runtime = runtime_in(tmp_path)
        bridge, whole = PretendChild(), PretendChild()
        runtime._bridge, runtime._head = bridge, whole  # type: ignore[assignment]
        runtime._task = asyncio.create_task(runtime._close())  # as before it is started again
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(runtime.stop())
        await asyncio.sleep(0.01)
        bridge.may_end.set()
        await asyncio.sleep(0.01)
        assert whole.asked
        assert not stopping.done()
        whole.may_end.set()
        await asyncio.wait_for(stopping, 5)

    asyncio.run(scenario())


class PretendBridge:
    """Ends as soon as it is looked at, with a word."""

    returncode = -11


def test_a_bridge_that_keeps_dying_is_said_and_waited_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    sleep = asyncio.sleep

    async def noted(delay: float) -> None:
        delays.append(delay)
        await sleep(0)

    class Flapping(RayRuntime):
        connections = 0

        async def _death(self) -> str | None:
            return None

        async def _connect(self, env: dict[str, str]) -> None:
            self.connections += 1
            if self.connections == 4:
                raise FleetError("something else listens there")

        async def _open_again(self, up: float) -> bool:
            return False

    async def scenario() -> None:
        runtime = Flapping(runtime_in(tmp_path).spec, ReleasePaths(tmp_path))
        runtime._bridge = PretendBridge()  # type: ignore[assignment]
        said: list[str | None] = []
        runtime._on_change = lambda: said.append(runtime.state().error)
        monkeypatch.setattr("tri_serve.fleet.ray.runtime.asyncio.sleep", noted)
        await asyncio.wait_for(runtime._watch(), 5)
        assert delays == [1.0, 2.0, 4.0]  # the first time another one comes at once
        assert "ended with exit code -11, 2 times" in (said[0] or "")
        assert said[-1] == "Ray died: cannot connect to it again: something else listens there"

    asyncio.run(scenario())


def engine_news(order: EngineOrder, phase: str) -> dict[str, Any]:
    state = ReplicaState(name="replica-0", phase=ReplicaPhase(phase), since=0.0, lives=1, log="")
    return EngineNews(version=1, instance="one", digest=digest(order), state=state).model_dump(mode="json")


@pytest.mark.parametrize("ends", [{"phase": "stopped"}, {"phase": "of tomorrow"}])
def test_a_replica_outlives_news_that_its_engine_does_not(tmp_path: Path, ends: dict[str, str]) -> None:
    """Its agent was stopped by somebody else, or says what nobody understands."""

    async def scenario() -> None:
        runtime = runtime_in(tmp_path)
        order = EngineOrder(spec=runtime.spec, engine_key="key", number=0)
        news = engine_news(order, "ready")
        deployed = 0
        deleted: list[str] = []

        def deploy(_request: Mapping[str, Any]) -> bool:
            nonlocal deployed
            deployed += 1
            return True

        def delete(request: Mapping[str, Any]) -> None:
            deleted.append(request["name"])
            news["state"]["phase"] = "ready"

        server = await bridge_of(
            runtime,
            {
                "deploy": deploy,
                "applications": lambda request: {request["prefix"]: {"status": "RUNNING", "message": ""}},
                "delete": delete,
                "call": lambda _request: news,
            },
        )
        errors: list[str | None] = []
        replica = RemoteReplica(
            runtime, "replica-0", order, on_change=lambda: errors.append(replica.state().error)
        )
        async with asyncio.timeout(10):
            replica.begin()
            while not replica.ready:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            news["state"] |= ends
            while deployed < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            news["state"]["phase"] = "ready"
            while not replica.ready:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert deleted == ([runtime.application("replica-0")] if ends == {"phase": "stopped"} else [])
        assert any("its agent" in (error or "") for error in errors)
        assert replica._task is not None
        replica._task.cancel()
        await asyncio.gather(replica._task, return_exceptions=True)
        await server.close()

    asyncio.run(scenario())


def test_a_replica_whose_agent_is_late_once_stays_with_the_gateways_and_is_lost_the_second_time(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        runtime = runtime_in(tmp_path)
        order = EngineOrder(spec=runtime.spec, engine_key="key", number=0)
        news = engine_news(order, "ready")
        news["state"] |= {"host": "127.0.0.1", "port": 1}
        answers: list[Any] = [news, None, news, None, None, news]

        server = await bridge_of(
            runtime,
            {
                "deploy": lambda _request: False,
                "applications": lambda request: {request["prefix"]: {"status": "RUNNING", "message": ""}},
                "call": lambda _request: answers.pop(0) if len(answers) > 1 else news,
            },
        )
        seen: list[tuple[bool, int]] = []
        replica = RemoteReplica(
            runtime, "replica-0", order, on_change=lambda: seen.append((replica.ready, len(answers)))
        )
        async with asyncio.timeout(10):
            replica.begin()
            while len(seen) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert seen[:4] == [(True, 5), (True, 3), (False, 1), (True, 1)]
        assert replica._task is not None
        replica._task.cancel()
        await asyncio.gather(replica._task, return_exceptions=True)
        await server.close()

    asyncio.run(scenario())
