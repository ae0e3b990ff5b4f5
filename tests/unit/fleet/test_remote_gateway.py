"""What becomes of a gateway's order when its agent, or the way to it, is lost; bridge and agent only pretend."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import FleetError, ResourceError
from tri_serve.fleet.control import ControlServer, Progress
from tri_serve.fleet.ray import remote_gateway
from tri_serve.fleet.ray.messages import GatewayNews, GatewayOrder, digest, roster_digest
from tri_serve.fleet.ray.remote_gateway import RemoteGateway
from tri_serve.fleet.ray.runtime import RayRuntime
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import ErrorState, GatewayState
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress
from tri_serve.spec.models import Spec


class PretendAgent:
    """A gateway's agent, and the bridge before it."""

    def __init__(self, runtime: RayRuntime) -> None:
        self.runtime = runtime
        self.order: GatewayOrder | None = None
        """None: no application."""
        self.phase = "running"
        self.refusal: ErrorState | None = None
        self.broken = False
        """Says what nobody understands."""
        self.answering = asyncio.Event()
        """Unset: it is dead, and nobody knows yet."""
        self.answering.set()
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.deleted = 0
        self.server: ControlServer | None = None

    async def open(self) -> None:
        commands = {"deploy": self.deploy, "applications": self.applications, "delete": self.delete}
        self.server = ControlServer(self.runtime._socket, {**commands, "call": self.call})
        await self.server.start()
        self.runtime._up.set()

    async def close(self) -> None:
        """The bridge is gone; what it was asked stays unanswered."""
        self.runtime._up.clear()
        assert self.server is not None
        await self.server.close()

    async def deploy(self, request: Mapping[str, Any], _progress: Progress) -> bool:
        if self.order is not None:
            return False
        self.order, self.phase = GatewayOrder.model_validate_json(request["order"]), "running"
        return True

    async def applications(self, request: Mapping[str, Any], _progress: Progress) -> Any:
        return {request["prefix"]: {"status": "RUNNING", "message": ""}}

    async def delete(self, _request: Mapping[str, Any], _progress: Progress) -> None:
        self.deleted += 1
        self.order = None

    async def call(self, request: Mapping[str, Any], _progress: Progress) -> Any:
        method, arguments = request["method"], tuple(request["arguments"])
        if method != "changes":
            self.asked.append((method, arguments))
        await self.answering.wait()
        if method == "changes":
            await asyncio.sleep(0.02)
            await self.answering.wait()  # it may have died meanwhile
            return self.news()
        if method == "follow":
            if self.refusal is not None:
                return self.refusal.model_dump()
            self.order = GatewayOrder.model_validate_json(arguments[0])
        return None

    def news(self) -> dict[str, Any]:
        if self.broken:
            return {"version": "of tomorrow"}
        assert self.order is not None
        state = GatewayState(phase=self.phase, since=0.0, log="")  # type: ignore[arg-type]
        return GatewayNews(
            version=1, instance="one", digest=digest(self.order), roster_digest=roster_digest(()), state=state
        ).model_dump(mode="json")

    def told(self, method: str) -> list[tuple[Any, ...]]:
        return [arguments for name, arguments in self.asked if name == method]


@asynccontextmanager
async def a_gateway(
    folder: Path, listener: socket.socket | None = None
) -> AsyncIterator[tuple[RemoteGateway, PretendAgent]]:
    """One that runs, whose agent has been heard."""
    spec = Spec.model_validate({"model": {"source": "tri-tiny-gptq", "served_name": "tri"}})
    runtime = RayRuntime(spec, ReleasePaths(folder))
    runtime._phase = "running"
    agent = PretendAgent(runtime)
    await agent.open()
    gateway = RemoteGateway(
        runtime, "gateway", config(folder), listener, host="0.0.0.0", port=8000, on_change=lambda: None
    )
    async with asyncio.timeout(20):
        gateway.begin()
        await soon(lambda: gateway.phase == "running")
        yield gateway, agent
        for task in gateway._tasks:
            task.cancel()
        await asyncio.gather(*gateway._tasks, return_exceptions=True)
        if gateway._shared is not None:
            await gateway._shared.close()
        await agent.close()


def config(folder: Path, **more: Any) -> GatewayConfig:
    return GatewayConfig(release="r", served_models=("tri",), admin_socket=folder / "admin", **more)


async def soon(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def test_another_address_travels_with_the_configuration(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_gateway(tmp_path) as (gateway, agent):
            await gateway.replace(config(tmp_path), address=("127.0.0.1", 8001))
            assert agent.order is not None
            assert (agent.order.host, agent.order.port) == ("127.0.0.1", 8001)
            assert gateway.port == 8001
            await gateway.replace(config(tmp_path, workers=2))
            assert (agent.order.host, agent.order.port) == ("127.0.0.1", 8001)

    asyncio.run(scenario())


def test_what_is_wanted_of_a_gateway_whose_agent_is_away_it_is_told_when_it_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_gateway(tmp_path) as (gateway, agent):
            agent.answering.clear()
            gateway._lost(FleetError("its node is away"))
            fewer = config(tmp_path, client_key_hashes={"a": "0" * 64})
            async with asyncio.timeout(1):
                await gateway.replace(fewer)
                await gateway.end_streams("replica-0")
            assert gateway.config is fewer
            assert agent.told("end_streams") == []
            await soon(lambda: bool(agent.told("set_roster")))  # waits for whoever comes
            assert agent.told("set_roster")[0][2] == digest(gateway._order)
            agent.answering.set()  # Serve made it with the order from before
            await soon(lambda: agent.order is not None and agent.order.config == fewer)

    asyncio.run(scenario())


def test_a_lost_agents_gateway_waits_since_it_was_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_gateway(tmp_path) as (gateway, _agent):
            running_since = gateway.state(None).since
            await asyncio.sleep(0.05)
            gateway._lost(FleetError("its node is away"))
            lost_since = gateway.state(None).since
            gateway._lost(FleetError("its node is still away"))
            assert running_since < lost_since == gateway.state(None).since

    asyncio.run(scenario())


def test_an_agent_that_is_lost_while_it_is_told_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_gateway(tmp_path) as (gateway, agent):
            agent.answering.clear()
            fewer = config(tmp_path, client_key_hashes={"a": "0" * 64})
            replacing = asyncio.create_task(gateway.replace(fewer))
            await soon(lambda: bool(agent.told("follow")))
            gateway._lost(FleetError("its node is away"))
            async with asyncio.timeout(1):
                with pytest.raises(FleetError, match="its node is away"):
                    await replacing
            assert gateway.config is fewer  # it is nevertheless what the next agent gets
            agent.answering.set()
            await soon(lambda: agent.order is not None and agent.order.config == fewer)

    asyncio.run(scenario())


def test_a_roster_comes_with_the_order_that_is_wanted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_gateway(tmp_path) as (gateway, agent):
            gateway.set_roster([ReplicaAddress(name="replica-0", host="127.0.0.1", port=1)])
            await soon(lambda: bool(agent.told("set_roster")))
            assert agent.told("set_roster")[0][2] == digest(gateway._order)

    asyncio.run(scenario())


def test_an_agent_that_cannot_follow_goes_on_and_says_why_and_is_asked_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_gateway, "_REFUSED_SECONDS", 0.5)

    async def scenario() -> None:
        async with a_gateway(tmp_path) as (gateway, agent):
            gateway._order = gateway._order.model_copy(update={"port": 8001})  # as when it was taken over
            agent.refusal = ErrorState.of(ResourceError("port 8001 is taken"))
            await soon(lambda: "port 8001 is taken" in (gateway.state(None).error or ""))
            assert gateway.phase == "running"
            await asyncio.sleep(0.2)
            assert len(agent.told("follow")) == 1
            agent.refusal = None
            await soon(lambda: gateway.state(None).error is None)
            assert agent.order is not None
            assert agent.order.port == 8001

    asyncio.run(scenario())


def test_a_change_that_the_agent_refuses_is_not_wanted_any_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_gateway(tmp_path) as (gateway, agent):
            before = gateway.config
            agent.refusal = ErrorState.of(ResourceError("port 8001 is taken"))
            with pytest.raises(ResourceError, match="8001"):
                await gateway.replace(config(tmp_path, workers=2), address=("0.0.0.0", 8001))
            assert (gateway.config, gateway.port) == (before, 8000)
            await asyncio.sleep(0.1)
            assert len(agent.told("follow")) == 1

    asyncio.run(scenario())


def test_an_agent_that_somebody_else_has_stopped_is_made_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_gateway(tmp_path) as (gateway, agent):
            agent.phase = "stopped"
            await soon(lambda: agent.deleted == 1)
            await soon(lambda: agent.order is not None and gateway.state(None).error is None)

    asyncio.run(scenario())


def test_news_that_nobody_understands_are_said_and_do_not_end_the_following(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_gateway(tmp_path) as (gateway, agent):
            agent.broken = True
            await soon(lambda: "is not understood" in (gateway.state(None).error or ""))
            assert gateway.phase == "waiting"
            agent.broken = False
            await soon(lambda: gateway.phase == "running")

    asyncio.run(scenario())


def test_what_was_asked_when_the_bridge_was_lost_is_asked_of_the_next_bridge(tmp_path: Path) -> None:
    async def scenario() -> None:
        old, new = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        async with a_gateway(tmp_path, old) as (gateway, agent):
            await agent.close()
            closing = asyncio.create_task(gateway.close_listener())
            await asyncio.sleep(0.05)
            assert not closing.done()
            await agent.open()
            await closing
            assert old.fileno() < 0
            await agent.close()
            replacing = asyncio.create_task(gateway.replace(config(tmp_path, workers=2), new))
            await asyncio.sleep(0.05)
            await agent.open()
            await replacing
            assert gateway.phase == "running"
            assert gateway._shared is not None
            assert gateway._shared.listener is new
            assert agent.order == gateway._order
        new.close()

    asyncio.run(scenario())


def test_a_socket_that_is_opened_again_is_taken_by_the_agent_however_the_change_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        old, new, again = (socket.create_server(("127.0.0.1", 0)) for _ in range(3))
        async with a_gateway(tmp_path, old) as (gateway, agent):
            before = gateway.config
            await gateway.close_listener()
            gateway._runtime._phase = "waiting"  # Ray dies
            await agent.close()
            with pytest.raises(FleetError):
                await gateway.replace(config(tmp_path, workers=2), new)
            assert new.fileno() < 0
            gateway.reopen(again)
            assert gateway._shared is not None
            assert gateway._shared.listener is again
            assert gateway.config is before
            gateway._runtime._phase = "running"
            number = agent.order.socket_number if agent.order else 0
            await agent.open()
            await soon(lambda: agent.order is not None and agent.order.socket_number > number)
            assert agent.order == gateway._order
        again.close()

    asyncio.run(scenario())
