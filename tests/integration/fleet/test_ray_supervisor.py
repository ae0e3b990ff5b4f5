"""A fleet whose parts live in a private Ray: works as without it, outlives every process of it, leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.faults.fleet import is_whole
from tri_serve.fleet.detached import live_state
from tri_serve.fleet.ray.head import temporary_folder, token_file
from tri_serve.fleet.release import ReleasePaths
from tri_serve.process.guard import descendants, stat_fields
from tri_serve.process.ports import free_port
from tri_serve.process.strays import command_of

Wait = Callable[..., Any]
pytestmark = pytest.mark.timeout(300)

CLIENT_KEY = "a-key-of-a-client-that-nobody-may-see"
HEADERS = {"authorization": f"Bearer {CLIENT_KEY}"}
HEAL_SECONDS = 150.0


class UsersRay:
    """Another Ray of the same user, started before the fleet: what the fleet does must not touch it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port("127.0.0.1")
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        self._head = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address=127.0.0.1", f"--port={self.port}", f"--temp-dir={folder}/ray"),
                *("--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000"),
                *("--include-dashboard=false", "--disable-usage-stats", "--include-log-monitor=false"),
                *(f"--ray-client-server-port={free_port('127.0.0.1')}", "--no-monitor"),
                f"--dashboard-agent-listen-port={free_port('127.0.0.1')}",
            ],
            env=self.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def processes(self) -> dict[str, int]:
        """Its own, by name."""
        found = {}
        for pid in descendants(self._head.pid):
            name = command_of(pid).split(" ", 1)[0].rpartition("/")[2]
            if name in ("gcs_server", "raylet"):
                found[name] = pid
        return found

    def answers(self) -> bool:
        """Whether somebody can connect to it and be worked for."""
        program = (
            "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False);"
            "print(ray.get(ray.remote(num_cpus=1)(lambda: 6 * 7).remote()))"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, f"127.0.0.1:{self.port}"],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout.strip() == "42"

    def end(self) -> None:
        left = dict(descendants(self._head.pid))
        for pid in (self._head.pid, *left):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._head.wait()


@pytest.fixture(scope="module")
def users_ray() -> Iterator[UsersRay]:
    with tempfile.TemporaryDirectory(prefix="own-ray-", ignore_cleanup_errors=True) as folder:
        found = UsersRay(Path(folder))
        yield found
        found.end()


@pytest.fixture(scope="module")
def fleet(shared: Any, users_ray: UsersRay) -> Iterator[Any]:
    """Two replicas under Ray, beside the user's; the last test takes them down."""
    assert users_ray.port
    # A working folder whose names shadow what is needed, as may happen in any project.
    for name in ("ray", "tri_serve"):
        (shared.folder / name).mkdir()
    shared.write_spec(
        engine={"env": {"MOCK_FLAGS": "--itl-ms 10"}}, fleet={"supervisor": "ray", "replicas": 2}
    )
    shared.up(TRI_SERVE_API_KEYS=CLIENT_KEY)
    yield shared
    log = shared.root / "logs" / "supervisor.log"
    assert "Traceback" not in log.read_text()


def state(release: Any) -> dict[str, Any]:
    """As the supervisor tells it, without a command line between."""
    found: dict[str, Any] = live_state(ReleasePaths(release.root)).model_dump(mode="json")
    return found


def whole(release: Any, wait: Wait) -> dict[str, Any]:
    """The state, once every part is well."""
    found: dict[str, Any] = wait(
        lambda: (now := state(release)) and is_whole(now, 1) and now, seconds=HEAL_SECONDS
    )
    return found


def ask(release: Any, **more: Any) -> int:
    """The status of one answer."""
    status: int = release.ask(headers=HEADERS, **more).status_code
    return status


def above(pid: int, title: str) -> int:
    """The process above ``pid`` that is called so."""
    while pid > 1:
        if command_of(pid).startswith(title):
            return pid
        fields = stat_fields(pid)
        assert fields is not None
        pid = int(fields[1])
    raise AssertionError(f"nothing above it is called {title}")


def called(release: Any, title: str) -> int:
    """The one process of the release that is called so."""
    (pid,) = [pid for pid in release.processes() if command_of(pid).startswith(title)]
    return pid


def kill(pid: int, wait: Wait) -> None:
    os.kill(pid, signal.SIGKILL)
    wait(lambda: (fields := stat_fields(pid)) is None or fields[0] in (b"Z", b"X"))


def listening(pids: set[int]) -> set[str]:
    """Addresses, as /proc writes them, on which these processes listen for TCP."""
    inodes = set()
    for pid in pids:
        try:
            targets = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()]
        except FileNotFoundError:
            continue
        inodes |= {target[8:-1] for target in targets if target.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


def test_up_makes_two_replicas_and_a_gateway_in_a_ray_of_its_own(fleet: Any, wait: Wait) -> None:
    now = whole(fleet, wait)
    assert [replica["name"] for replica in now["replicas"]] == ["replica-0", "replica-1"]
    assert now["ray"]["private"] is True
    assert set(now["ray"]["processes"]) == {"raylet", "gcs_server"}
    assert ask(fleet) == 200
    for part in (*now["replicas"], *now["gateways"]):
        above(part["pid"], "ray::ServeReplica:tri-serve-tri-")
        assert "ray" not in command_of(part["pid"])
    status = fleet.run("status")
    assert status.returncode == 0
    assert status.stdout.startswith("tri: ready")
    assert max(len(line) for line in status.stdout.splitlines()) <= 80


def test_servers_that_nobody_asks_are_left_out(fleet: Any) -> None:
    commands = " ".join(map(command_of, fleet.processes()))
    assert "raylet" in commands
    for program in ("ray/dashboard/", "ray.util.client.server", "runtime_env/agent"):
        assert program not in commands


def test_nobody_elsewhere_can_connect(fleet: Any) -> None:
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}  # the latter is IPv4 on an IPv6 socket
    assert listening(set(fleet.processes())) == loopback
    folder = temporary_folder(ReleasePaths(fleet.root))
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert token_file(ReleasePaths(fleet.root)).stat().st_mode & 0o077 == 0


def test_engines_and_gateway_know_nothing_of_ray(fleet: Any) -> None:
    now = state(fleet)
    for part in (*now["replicas"], *now["gateways"]):
        for pid in (part["pid"], *descendants(part["pid"])):
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            assert [entry for entry in environ if entry.startswith(b"RAY_")] == []
            assert "/ray/" not in Path(f"/proc/{pid}/maps").read_text()


def test_scale_restart_and_another_spec_go_without_a_failed_request(fleet: Any, wait: Wait) -> None:
    before = state(fleet)
    with ThreadPoolExecutor(4) as pool:
        stopping = False

        def client() -> list[int]:
            statuses = []
            while not stopping:
                statuses.append(ask(fleet))
            return statuses

        clients = [pool.submit(client) for _ in range(4)]
        try:
            for command in (
                ("scale", "--replicas", "3"),
                ("scale", "--replicas", "2"),
                ("restart", "replica-0"),
                ("restart", "gateway"),
                (
                    "up",
                    "--no-ask",
                    "--set",
                    "engine.max_num_seqs=7",
                    "--set",
                    "gateway.limits.body_bytes=2048",
                ),
            ):
                done = fleet.run(*command, TRI_SERVE_API_KEYS=CLIENT_KEY)
                assert done.returncode == 0, (command, done.stderr)
        finally:
            stopping = True
        for each in clients:
            assert set(each.result()) == {200}
    after = whole(fleet, wait)
    assert [replica["name"] for replica in after["replicas"]] == ["replica-0", "replica-1"]
    assert {r["pid"] for r in before["replicas"]}.isdisjoint(r["pid"] for r in after["replicas"])
    assert before["gateways"][0]["pid"] != after["gateways"][0]["pid"]
    assert ask(fleet, body={"padding": "x" * 3000}) == 413
    again = fleet.up(
        *("--set", "engine.max_num_seqs=7", "--set", "gateway.limits.body_bytes=2048"),
        TRI_SERVE_API_KEYS=CLIENT_KEY,
    )
    assert "runs this spec already" in again.stdout


def test_an_engine_setting_that_does_not_work_is_taken_back(fleet: Any, wait: Wait) -> None:
    before = state(fleet)
    done = fleet.run("up", "--set-string", "engine.env.MOCK_EXIT=3", TRI_SERVE_API_KEYS=CLIENT_KEY)
    assert done.returncode == 15, done.stderr
    assert "no kernel for this checkpoint" in done.stderr
    after = whole(fleet, wait)
    assert after["replicas"][1]["pid"] == before["replicas"][1]["pid"]
    assert ask(fleet) == 200


def test_a_gateway_moves_though_the_connection_to_ray_is_lost_meanwhile(fleet: Any, wait: Wait) -> None:
    same = ("--set", "engine.max_num_seqs=7", "--set", "gateway.limits.body_bytes=2048")
    fleet.up(*same, TRI_SERVE_API_KEYS=CLIENT_KEY)
    before = whole(fleet, wait)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, fleet, body={"stream": True, "max_tokens": 300})
        wait(lambda: state(fleet)["gateways"][0]["in_flight"])
        with fleet.popen(
            *("up", "-r", fleet.name, "--no-ask", *same, "--set", "gateway.host=0.0.0.0"),
            environ={"TRI_SERVE_API_KEYS": CLIENT_KEY},
        ) as up:
            wait(lambda: state(fleet)["gateways"][0]["phase"] == "starting")  # its socket is closed
            for pid in fleet.processes():
                if "fleet.ray.bridge" in command_of(pid) and "guard" not in command_of(pid):
                    kill(pid, wait)
            _, said = up.communicate(timeout=HEAL_SECONDS)
        assert up.returncode == 0, said
        assert slow.result() == 200
    after = whole(fleet, wait)
    assert [r["pid"] for r in after["replicas"]] == [r["pid"] for r in before["replicas"]]
    assert ask(fleet) == 200
    assert requests.get(f"http://127.0.0.2:{fleet.port}/health", timeout=5).status_code == 200
    fleet.up(*same, TRI_SERVE_API_KEYS=CLIENT_KEY)
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(f"http://127.0.0.2:{fleet.port}/health", timeout=5)
    assert ask(fleet) == 200


@pytest.mark.parametrize("victim", ["engine", "engine's agent"])
def test_a_dead_replica_is_not_noticed_by_clients_and_comes_back(fleet: Any, wait: Wait, victim: str) -> None:
    before = whole(fleet, wait)
    engine = before["replicas"][1]["pid"]
    kill(engine if victim == "engine" else above(engine, "ray::ServeReplica:"), wait)
    assert {ask(fleet) for _ in range(10)} == {200}
    wait(lambda: state(fleet)["replicas"][1]["pid"] not in (None, engine), seconds=HEAL_SECONDS)
    after = whole(fleet, wait)
    assert after["replicas"][0]["pid"] == before["replicas"][0]["pid"]
    assert after["replicas"][1]["restarts"] == before["replicas"][1]["restarts"] + 1
    assert not Path(f"/proc/{engine}").exists()


@pytest.mark.parametrize("victim", ["gateway", "gateway's agent"])
def test_connections_made_while_the_gateway_is_gone_are_answered(fleet: Any, wait: Wait, victim: str) -> None:
    before = whole(fleet, wait)
    gateway = before["gateways"][0]["pid"]
    kill(gateway if victim == "gateway" else above(gateway, "ray::ServeReplica:"), wait)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: ask(fleet), range(8))) == {200}
    after = whole(fleet, wait)
    assert after["gateways"][0]["pid"] != gateway
    assert [r["pid"] for r in after["replicas"]] == [r["pid"] for r in before["replicas"]]


def test_agents_share_their_imports_and_come_back_without_them(fleet: Any, wait: Wait) -> None:
    before = whole(fleet, wait)
    (source,) = [pid for pid in fleet.processes() if "fleet.ray.worker_source" in command_of(pid)]
    for part in (*before["replicas"], *before["gateways"]):
        assert above(part["pid"], f"{sys.executable} -m tri_serve.fleet.ray.worker_source") == source
    kill(source, wait)
    engine = before["replicas"][1]["pid"]
    kill(above(engine, "ray::ServeReplica:"), wait)
    assert {ask(fleet) for _ in range(10)} == {200}
    wait(lambda: state(fleet)["replicas"][1]["pid"] not in (None, engine), seconds=HEAL_SECONDS)
    after = whole(fleet, wait)
    assert after["ray"]["restarts"] == before["ray"]["restarts"]
    assert after["replicas"][0]["pid"] == before["replicas"][0]["pid"]
    above(after["replicas"][1]["pid"], "ray::ServeReplica:")


def test_serves_controller_may_die(fleet: Any, wait: Wait) -> None:
    before = whole(fleet, wait)
    controller = called(fleet, "ray::ServeController")
    kill(controller, wait)
    assert {ask(fleet) for _ in range(10)} == {200}
    wait(lambda: called_again(fleet, controller), seconds=HEAL_SECONDS)
    time.sleep(1.0)
    after = whole(fleet, wait)
    assert [r["pid"] for r in after["replicas"]] == [r["pid"] for r in before["replicas"]]
    assert after["gateways"][0]["pid"] == before["gateways"][0]["pid"]
    assert fleet.run("restart", "replica-1").returncode == 0


def called_again(fleet: Any, controller: int) -> bool:
    found = [pid for pid in fleet.processes() if command_of(pid).startswith("ray::ServeController")]
    return bool(found) and controller not in found


def test_a_dead_ray_is_told_and_healed_by_the_supervisor(fleet: Any, wait: Wait) -> None:
    """test_faults.py kills the raylet, too."""
    victim = "gcs_server"
    before = whole(fleet, wait)
    pid = before["ray"]["processes"][victim]
    kill(pid, wait)
    # With one of them, the other may be gone before anybody has looked.
    wait(lambda: f"{victim} (pid {pid})" in (state(fleet)["ray"]["error"] or ""), seconds=HEAL_SECONDS)
    after = whole(fleet, wait)
    assert after["ray"]["restarts"] == before["ray"]["restarts"] + 1
    assert ask(fleet) == 200
    assert len(after["replicas"]) == 2
    one_tree = set(descendants(after["supervisor"]["pid"])) | {after["supervisor"]["pid"]}
    assert set(fleet.processes()) <= one_tree


def test_up_heals_after_the_supervisor_was_killed(fleet: Any, wait: Wait) -> None:
    os.kill(state(fleet)["supervisor"]["pid"], signal.SIGKILL)
    fleet.nothing_left(15)
    assert fleet.run("status").stdout.startswith("tri: stale")
    fleet.up(TRI_SERVE_API_KEYS=CLIENT_KEY)
    whole(fleet, wait)
    assert ask(fleet) == 200


def test_no_secret_is_where_others_read_it_and_down_leaves_nothing(
    fleet: Any, users_ray: UsersRay, wait: Wait
) -> None:
    paths = ReleasePaths(fleet.root)
    config = json.loads(paths.gateway_config.read_text())
    hashes = list(config["client_key_hashes"].values())
    assert hashes
    token = token_file(paths).read_text()
    secrets = {
        "engine key": config["engine_key"],
        "client key": CLIENT_KEY,
        "client key's hash": hashes[0],
        "Ray's token": token,
    }
    engines = {replica["pid"] for replica in state(fleet)["replicas"]}
    # An engine takes its key by its environment, as vLLM wants it.
    known = engines | {pid for engine in engines for pid in descendants(engine)}
    for pid in fleet.processes():
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        environ = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        for name, secret in secrets.items():
            assert secret not in argv, (name, argv)
            if not (name == "engine key" and known & {pid, *descendants(pid)}):
                assert secret not in environ, (name, argv)
    folder = temporary_folder(paths)
    written = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert written
    for file in (*written, *paths.logs.iterdir()):
        content = file.read_bytes()
        for name, secret in secrets.items():
            assert secret.encode() not in content, (name, file)

    down = fleet.run("down")
    assert (down.returncode, down.stdout) == (0, "tri is stopped\n")
    assert fleet.processes() == ()
    assert not folder.exists()
    assert not token_file(paths).exists()
    for file in paths.logs.iterdir():
        for name, secret in secrets.items():
            assert secret.encode() not in file.read_bytes(), (name, file)

    assert set(users_ray.processes()) == {"raylet", "gcs_server"}
    assert users_ray.answers()
