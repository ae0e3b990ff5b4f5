"""A supervisor on a user's cluster: what it leaves there and what it takes away, with a bridge that pretends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import FleetError, UsageError
from tri_serve.fleet.cluster_record import keep_record, read_record
from tri_serve.fleet.control import ControlServer, Progress
from tri_serve.fleet.ray.cluster import ClusterRuntime
from tri_serve.fleet.release import ReleasePaths
from tri_serve.gateway.config import GatewayConfig
from tri_serve.spec.models import Spec

ADDRESS = "10.0.0.1:6379"
NODE = {"address": "10.0.0.1", "name": "a", "gpus": 0, "cpus": 8}
Command = Callable[[Mapping[str, Any]], Any]


class PretendCluster(ClusterRuntime):
    """Its bridge is what the test puts on the socket; it never dies by itself."""

    def __init__(self, paths: ReleasePaths, gateway_nodes: tuple[str, ...] = ()) -> None:
        ray = {"address": ADDRESS, "gateway_nodes": gateway_nodes}
        spec = Spec.model_validate(
            {
                "model": {"source": "/nowhere", "served_name": "t"},
                "fleet": {"target": "ray", "replicas": 2, "ray": ray},
                "gateway": {"host": "node", "allow_unauthenticated": True},
            }
        )
        super().__init__(spec, paths)
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.commands: dict[str, Command] = {
            "nodes": lambda _: [NODE],
            "applications": lambda _: {},
            "check": lambda _: [],
            "clear": lambda _: None,
            "leave": lambda _: True,
        }
        self.bridge: ControlServer | None = None

    async def connect(self) -> None:
        """A bridge that answers."""

        def noted(name: str) -> Any:
            async def command(request: Mapping[str, Any], _progress: Progress) -> Any:
                self.asked.append((name, request))
                answer = self.commands[name](request)
                return await answer if inspect.isawaitable(answer) else answer

            return command

        self.bridge = ControlServer(self._socket, {name: noted(name) for name in self.commands})
        await self.bridge.start()
        self._nodes = [NODE]
        self._phase = "running"
        self._up.set()

    async def lose_connection(self) -> None:
        assert self.bridge is not None
        self._up.clear()
        await self.bridge.close()

    async def _open(self) -> None:
        self._address = ADDRESS
        await self.connect()

    async def _close(self) -> None:
        await super()._close()
        if self.bridge is not None:
            await self.bridge.close()

    async def _death(self) -> str | None:
        await asyncio.Event().wait()
        return None

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]


@pytest.fixture
def paths(tmp_path: Path) -> ReleasePaths:
    made = ReleasePaths(tmp_path / "tri")
    made.create()
    return made


def found(*parts: str) -> Command:
    return lambda request: {request["prefix"] + part: {"status": "RUNNING", "message": ""} for part in parts}


def failing(error: Exception) -> Command:
    def command(_request: Mapping[str, Any]) -> Any:
        raise error

    return command


def test_a_first_start_that_fails_leaves_no_record(paths: ReleasePaths) -> None:
    async def scenario() -> None:
        cluster = PretendCluster(paths)
        cluster.commands["check"] = lambda _: ["a GPU is missing"]
        with pytest.raises(FleetError, match="not ready for this release"):
            await cluster.start()
        await asyncio.wait_for(cluster.stop(), 2)
        assert read_record(paths) is None
        assert "clear" not in cluster.names()

    asyncio.run(scenario())


def test_the_record_of_what_runs_outlives_a_start_that_did_not_get_to_see_it(paths: ReleasePaths) -> None:
    async def scenario() -> None:
        before = keep_record(paths, ADDRESS, 60.0)
        cluster = PretendCluster(paths)
        cluster.commands["applications"] = failing(FleetError("Serve does not answer"))
        with pytest.raises(FleetError, match="Serve does not answer"):
            await cluster.start()
        await asyncio.wait_for(cluster.stop(), 2)
        known = read_record(paths)
        assert known is not None
        assert known.engine_key == before.engine_key
        assert "clear" not in cluster.names()

    asyncio.run(scenario())


def test_what_serves_is_taken_over_though_a_gateways_node_is_away(paths: ReleasePaths) -> None:
    async def scenario() -> None:
        keep_record(paths, ADDRESS, 60.0)
        cluster = PretendCluster(paths, gateway_nodes=("10.0.0.1", "10.0.0.2"))
        cluster.commands["applications"] = found("replica-0", "gateway@10.0.0.1", "gateway@10.0.0.2")
        await cluster.start()
        assert cluster.takes_over
        assert cluster.gateway_nodes() == ["10.0.0.1", "10.0.0.2"]
        await cluster.stop()

    asyncio.run(scenario())


def test_gateway_nodes_that_never_were_stop_nothing_that_serves(paths: ReleasePaths) -> None:
    async def scenario() -> None:
        keep_record(paths, ADDRESS, 60.0)
        cluster = PretendCluster(paths, gateway_nodes=("10.0.0.7",))
        cluster.commands["applications"] = found("replica-0", "gateway@10.0.0.1")
        with pytest.raises(UsageError, match=r"no node 10\.0\.0\.7"):
            await cluster.start()
        await asyncio.wait_for(cluster.stop(), 2)
        assert read_record(paths) is not None
        assert "clear" not in cluster.names()

    asyncio.run(scenario())


def test_a_stop_takes_all_away_and_forgets_the_cluster(paths: ReleasePaths) -> None:
    async def scenario() -> None:
        cluster = PretendCluster(paths)
        await cluster.start()
        await cluster.stop()
        assert cluster.names()[-2:] == ["clear", "leave"]
        assert read_record(paths) is None

    asyncio.run(scenario())


def test_a_stop_waits_for_a_connection_that_comes_back(paths: ReleasePaths) -> None:
    async def scenario() -> None:
        cluster = PretendCluster(paths)
        await cluster.start()
        await cluster.lose_connection()
        stopping = asyncio.create_task(cluster.stop())
        await asyncio.sleep(0.3)
        assert not stopping.done()
        await cluster.connect()
        await asyncio.wait_for(stopping, 5)
        assert cluster.names()[-2:] == ["clear", "leave"]
        assert read_record(paths) is None

    asyncio.run(scenario())


def test_a_lost_cluster_is_not_waited_for_and_what_stays_is_said(
    paths: ReleasePaths, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        cluster = PretendCluster(paths)
        await cluster.start()
        await cluster.lose_connection()
        cluster._phase = "waiting"
        cluster._error = "the cluster is lost"
        await asyncio.wait_for(cluster.stop(), 2)
        assert read_record(paths) is not None

    asyncio.run(scenario())
    assert f"what runs on the cluster at {ADDRESS} was not stopped: the cluster is lost" in caplog.text


def test_what_is_killed_is_cleared_at_once_and_not_made_again(paths: ReleasePaths) -> None:
    async def scenario() -> None:
        cluster = PretendCluster(paths)
        await cluster.start()
        await cluster.kill()
        name, request = cluster.asked[-1]
        assert (name, request["patience"], request["prefix"]) == ("clear", 0.0, cluster.application(""))
        with pytest.raises(FleetError, match="is being stopped"):
            await cluster.deploy("engine", "replica-0", "{}")
        await cluster.stop()
        assert read_record(paths) is None

    asyncio.run(scenario())


def test_a_part_whose_agent_dies_while_it_stops_is_deleted_before_serve_makes_it_again(
    paths: ReleasePaths,
) -> None:
    async def scenario() -> None:
        cluster = PretendCluster(paths)
        cluster.commands |= {
            "placed": lambda _: True,
            "call": failing(FleetError("its Ray actor died")),
            "delete": lambda _: None,
        }
        await cluster.start()
        await cluster.end("replica-1", 5.0)
        assert cluster.asked[-1][0] == "delete"
        assert cluster.asked[-1][1]["name"] == cluster.application("replica-1")
        await cluster.stop()

    asyncio.run(scenario())


def test_a_part_is_ended_though_the_connection_is_lost_meanwhile(paths: ReleasePaths) -> None:
    async def scenario() -> None:
        cluster = PretendCluster(paths)
        cluster.commands |= {"placed": lambda _: True, "call": lambda _: None, "delete": lambda _: None}
        await cluster.start()
        await cluster.lose_connection()
        ending = asyncio.create_task(cluster.end("replica-1", 5.0))
        await asyncio.sleep(0.2)
        assert not ending.done()
        await cluster.connect()
        await asyncio.wait_for(ending, 5)
        assert cluster.names()[-3:] == ["placed", "call", "delete"]
        await cluster.lose_connection()
        cluster._phase = "waiting"
        await asyncio.wait_for(cluster.end("replica-0", 5.0), 1)  # a lost cluster keeps nobody waiting
        cluster.commands["address"] = lambda _: ADDRESS
        cluster._connect = lambda env: cluster.connect()  # type: ignore[method-assign]
        await ClusterRuntime._open(cluster)
        await asyncio.sleep(0.1)
        assert cluster.asked[-1][0] == "clear"
        assert cluster.asked[-1][1]["parts"] == ["replica-0"]
        await cluster.stop()

    asyncio.run(scenario())


def test_whether_a_port_has_to_be_free_is_seen_from_where_gateways_listen_now(paths: ReleasePaths) -> None:
    async def scenario() -> None:
        keep_record(paths, ADDRESS, 60.0)
        paths.spec.write_text("gateway: {port: 8000}")
        cluster = PretendCluster(paths)
        cluster.commands["applications"] = found("gateway@10.0.0.1")
        moved = cluster.spec.model_copy(
            update={"gateway": cluster.spec.gateway.model_copy(update={"port": 8001})}
        )

        async def occupied(spec: Spec) -> Any:
            await cluster.check(spec, lambda _: None)
            return cluster.asked[-1][1]["occupied"]

        await cluster.start()
        assert await occupied(cluster.spec) == ["10.0.0.1"]
        assert await occupied(moved) == []
        config = GatewayConfig(release="t", served_models=("t",), admin_socket=paths.admin_socket(0))
        (gateway,) = cluster.gateways(config, None, lambda: None)
        await gateway.replace(config, address=("node", 8001))
        assert await occupied(moved) == ["10.0.0.1"]
        assert await occupied(cluster.spec) == []
        await cluster.stop()

    asyncio.run(scenario())


def test_a_cluster_is_not_left_before_all_that_asks_there_has_its_answer(paths: ReleasePaths) -> None:
    async def scenario() -> None:
        cluster = PretendCluster(paths)
        answered = asyncio.Event()

        async def slow(_request: Mapping[str, Any]) -> None:
            if cluster.names().count("clear") == 1:
                await answered.wait()

        cluster.commands["clear"] = slow
        await cluster.start()
        killing = asyncio.create_task(cluster.kill())
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(cluster.stop())
        await asyncio.sleep(0.2)
        assert cluster.names()[-2:] == ["clear", "clear"]
        answered.set()
        await asyncio.gather(killing, stopping)
        assert cluster.names()[-1] == "leave"

    asyncio.run(scenario())
