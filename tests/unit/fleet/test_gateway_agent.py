"""A gateway's agent on a node: which order it follows, on which socket. No Ray and no gateway is started."""

from __future__ import annotations

import asyncio
import importlib
import socket
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tri_serve.fleet.gateway_process import GatewayProcess
from tri_serve.fleet.ray.messages import AgentSettings, GatewayOrder, digest
from tri_serve.gateway.config import GatewayConfig
from tri_serve.process.ports import bind_listener, free_port

NODE = "127.0.0.3"


class PretendProcess:
    """A gateway process, as its agent sees one."""

    def __init__(self) -> None:
        self.child = self
        self.pid = 1
        self.started = 0.0
        self.ended = asyncio.Event()

    async def ask(self, _method: str, _target: str, _body: object = None) -> dict[str, Any]:
        return {"ready": True, "workers": [], "replicas": []}

    async def wait_program(self) -> int:
        await self.ended.wait()
        return 0

    async def wait(self) -> int:
        return await self.wait_program()

    async def end(self) -> None:
        self.ended.set()


@pytest.fixture(scope="module")
def agents() -> Any:
    """The module: Ray itself does not go without warnings when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("tri_serve.fleet.ray.agents")


@pytest.fixture
def started(agents: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[GatewayConfig, str]]:
    """Configuration and address of every process that was started."""
    found: list[tuple[GatewayConfig, str]] = []

    async def start(self: GatewayProcess) -> PretendProcess:
        found.append((self.config, self.listener.getsockname()[0]))
        return PretendProcess()

    monkeypatch.setattr(GatewayProcess, "_start", start)
    monkeypatch.setattr(agents.ray.util, "get_node_ip_address", lambda: NODE)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return found


def order(port: int, host: str = "127.0.0.1", **config: Any) -> GatewayOrder:
    told = GatewayConfig(release="r", served_models=("tri",), admin_socket=Path("/nowhere"), **config)
    return GatewayOrder(config=told, host=host, port=port)


@asynccontextmanager
async def an_agent(agents: Any, given: GatewayOrder) -> AsyncIterator[Any]:
    """As Serve makes one on a node of a cluster, and ends it by a kill."""
    settings = AgentSettings(release="r", identity="id", name="gateway@n")
    agent = agents.GatewayAgent(settings.model_dump_json(), given.model_dump_json())
    async with asyncio.timeout(10):
        try:
            yield agent
        finally:
            agent._owns = False
            for task in (agent._beginning, agent._rotation, *agent._gateway._tasks):
                if task is not None:
                    task.cancel()
            agent._gateway.listener.close()


async def hears(agent: Any, wanted: GatewayOrder) -> None:
    """What a supervisor tells it of the engines, none of which is there."""
    await agent.set_roster([], 0.01, digest(wanted))


async def begins(agent: Any, wanted: GatewayOrder) -> None:
    await hears(agent, wanted)
    await agent._beginning
    while agent._gateway.phase != "running":  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def soon(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def connects(host: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_it_moves_to_another_address_of_the_same_port(agents: Any, started: list[Any]) -> None:
    async def scenario() -> None:
        port = free_port("127.0.0.1")
        everywhere, here = order(port, "0.0.0.0"), order(port)
        async with an_agent(agents, everywhere) as agent:
            await begins(agent, everywhere)
            assert connects("127.0.0.2", port)
            assert await agent.follow(here.model_dump_json()) is None
            assert not connects("127.0.0.2", port)
            assert connects("127.0.0.1", port)
            news = await agent.changes(-1, 0)
            assert (news["digest"], news["state"]["url"]) == (digest(here), f"http://127.0.0.1:{port}")

    play(scenario)


def test_it_moves_to_another_port_and_says_so(agents: Any, started: list[Any]) -> None:
    async def scenario() -> None:
        old, new = order(free_port(NODE), "node"), order(free_port(NODE), "node")
        async with an_agent(agents, old) as agent:
            await begins(agent, old)
            assert await agent.follow(new.model_dump_json()) is None
            assert connects(NODE, new.port)
            assert not connects(NODE, old.port)
            assert (await agent.changes(-1, 0))["state"]["url"] == f"http://{NODE}:{new.port}"

    play(scenario)


@pytest.mark.parametrize("same_port", [False, True])
def test_a_move_that_is_not_possible_leaves_it_where_it_was(
    agents: Any, started: list[Any], same_port: bool
) -> None:
    async def scenario() -> None:
        port = free_port("127.0.0.1")
        old = order(port)
        with bind_listener("127.0.0.2", port if same_port else 0) as taken:
            new = order(taken.getsockname()[1], "127.0.0.2", workers=2)
            async with an_agent(agents, old) as agent:
                await begins(agent, old)
                refusal = await agent.follow(new.model_dump_json())
                assert refusal is not None
                assert "taken" in refusal["message"]
                await soon(lambda: agent._gateway.phase == "running")
                assert connects("127.0.0.1", port)
                assert (await agent.changes(-1, 0))["digest"] == digest(old)
                assert {config.workers for config, _ in started} == {1}

    play(scenario)


def test_one_that_is_made_again_lets_nobody_in_by_an_order_from_before(
    agents: Any, started: list[Any]
) -> None:
    """Serve makes it with the order from its first deployment; keys may have been disabled since."""

    async def scenario() -> None:
        first = order(free_port("127.0.0.1"), client_key_hashes={"old": "0" * 64})
        wanted = order(first.port, client_key_hashes={"new": "1" * 64})
        async with an_agent(agents, first) as agent:
            await hears(agent, wanted)
            await asyncio.sleep(0.05)
            assert started == []
            assert await agent.follow(wanted.model_dump_json()) is None
            await agent._beginning
            assert [list(config.client_key_hashes) for config, _ in started] == [["new"]]

    play(scenario)


def test_one_whose_order_was_the_present_one_all_along_begins(agents: Any, started: list[Any]) -> None:
    """Also when the supervisor, of another version, knows it by another digest."""

    async def scenario() -> None:
        wanted = order(free_port("127.0.0.1"))
        async with an_agent(agents, wanted) as agent:
            await agent.set_roster([], 0.01, "another digest")
            assert await agent.follow(wanted.model_dump_json()) is None
            await agent._beginning
            while not started:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    play(scenario)


def test_one_that_is_made_again_follows_what_the_one_before_it_did(agents: Any, started: list[Any]) -> None:
    """Also with nobody there to tell it."""

    async def scenario() -> None:
        first = order(free_port("127.0.0.1"), "0.0.0.0")
        second = order(free_port("127.0.0.1"), client_key_hashes={"new": "1" * 64})
        async with an_agent(agents, first) as agent:
            await begins(agent, first)
            await agent.follow(second.model_dump_json())
            assert agent.paths.gateway_order.stat().st_mode & 0o077 == 0
        async with an_agent(agents, first) as agent:
            assert (await agent.changes(-1, 0))["digest"] == digest(second)
            assert connects("127.0.0.1", second.port)
            assert not connects("127.0.0.1", first.port)
        another = order(free_port("127.0.0.1"))
        async with an_agent(agents, another) as agent:  # which a supervisor has deployed anew
            assert (await agent.changes(-1, 0))["digest"] == digest(another)

    play(scenario)


def test_a_closed_socket_is_said_and_another_one_taken(
    agents: Any, started: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listener = bind_listener("127.0.0.1", 0)
    monkeypatch.setattr(agents, "take_listener", lambda _path: listener.dup())
    monkeypatch.setattr(agents, "stay_on_loopback", lambda: None)

    async def scenario() -> None:
        wanted = order(1)
        settings = AgentSettings(
            release="r", name="gateway", root=str(tmp_path / "r"), listener_socket="shared"
        )
        agent = agents.GatewayAgent(settings.model_dump_json(), wanted.model_dump_json())
        async with asyncio.timeout(10):
            await begins(agent, wanted)
            await agent.close_listener()
            news = await agent.changes(-1, 0)
            assert (news["digest"], news["state"]["phase"]) == ("", "starting")
            assert await agent.follow(wanted.model_dump_json()) is None
            assert (await agent.changes(-1, 0))["digest"] == digest(wanted)
            assert agent._gateway.phase == "running"
            await agent.close_listener()
            await agent.renew()
            assert agent._gateway.phase == "running"
            await agent.stop()

    play(scenario)
    listener.close()
