"""What dies is started again; what the supervisor leaves, nobody has to look for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tri_serve.fleet.release import ReleasePaths

Wait = Callable[..., Any]


def test_a_killed_engine_comes_back_and_answers(release: Any, wait: Wait) -> None:
    release.up()
    before = release.replica()
    os.kill(before["pid"], signal.SIGKILL)
    wait(lambda: (r := release.replica())["phase"] == "ready" and r["restarts"] == 1)
    after = release.replica()
    assert after["pid"] != before["pid"]
    assert "killed" in after["error"] or "SIGKILL" in after["error"] or "signal" in after["error"]
    wait(lambda: release.ask().status_code == 200)


def test_with_two_replicas_a_dead_one_is_not_noticed_by_clients(release: Any, wait: Wait) -> None:
    release.write_spec(fleet={"replicas": 2}, engine={"env": {"MOCK_START_SECONDS": "1"}})
    release.up()
    os.kill(release.replica(1)["pid"], signal.SIGKILL)
    assert {release.ask().status_code for _ in range(20)} == {200}
    wait(lambda: release.replica(1)["phase"] == "ready")


def test_a_crash_loop_is_reported_and_the_others_go_on(release: Any, tmp_path: Path, wait: Wait) -> None:
    poison = tmp_path / "poison"
    release.write_spec(fleet={"replicas": 2}, engine={"env": {"MOCK_POISON": str(poison)}})
    release.up()
    poison.touch()
    os.kill(release.replica(1)["pid"], signal.SIGKILL)
    failed = wait(lambda: (r := release.replica(1))["phase"] == "failed" and r, 40)
    assert "no kernel for this checkpoint" in failed["error"]
    status = release.run("status")
    assert status.returncode == 0  # requests are answered
    assert status.stdout.startswith("tri: degraded")
    assert "given up; tri-serve restart replica-1 tries again" in status.stdout
    assert release.ask().status_code == 200
    poison.unlink()
    assert release.run("restart", "replica-1").returncode == 0
    assert release.replica(1)["phase"] == "ready"


def test_a_connection_made_while_the_gateway_is_dead_is_answered(release: Any, wait: Wait) -> None:
    release.up()
    gateway = release.state()["gateways"][0]["pid"]
    os.kill(gateway, signal.SIGKILL)
    wait(lambda: not Path(f"/proc/{gateway}").exists())
    assert release.ask().status_code == 200
    assert release.state()["gateways"][0]["restarts"] == 1


def test_up_starts_again_what_had_been_given_up(release: Any, wait: Wait) -> None:
    release.up()

    def given_up() -> bool:
        replica = release.replica()
        if replica["pid"] is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(replica["pid"], signal.SIGKILL)
        return bool(replica["phase"] == "failed")

    wait(given_up, 40)
    assert "tri runs again" in release.up().stdout
    assert release.ask().status_code == 200


def test_a_gateway_is_never_given_up_since_clients_wait_at_its_socket(release: Any, wait: Wait) -> None:
    release.up()
    killed: set[int] = set()

    def killed_often() -> bool:
        pid = release.state()["gateways"][0]["pid"]
        if pid is not None and pid not in killed:
            killed.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(killed) == 6

    wait(killed_often, 40)
    assert release.ask().status_code == 200
    assert wait(lambda: release.state()["gateways"][0]["restarts"]) >= 5


def test_a_killed_supervisor_leaves_nothing(release: Any) -> None:
    release.up()
    os.kill(release.state()["supervisor"]["pid"], signal.SIGKILL)
    release.nothing_left()
    stale = release.run("status")
    assert stale.returncode == 17
    assert stale.stdout.startswith("tri: stale")
    assert "tri-serve down tidies up" in stale.stdout
    state = release.state()
    assert (state["condition"], state["phase"], state["ready"]) == ("stale", "stale", False)
    assert {part["phase"] for part in (state["gateways"][0], *state["replicas"])} == {"unknown"}
    assert release.run("down").returncode == 0
    assert release.run("status").stderr.startswith("error: release tri is not running")


def test_up_after_a_killed_supervisor_starts_again_at_once(release: Any) -> None:
    release.up()
    os.kill(release.state()["supervisor"]["pid"], signal.SIGKILL)
    release.up()
    assert release.ask().status_code == 200


def test_down_ends_what_a_killed_supervisor_and_its_guards_left(release: Any, wait: Wait) -> None:
    release.up()
    state = release.state()
    engine = state["replicas"][0]["pid"]
    guards = [
        int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        for pid in (engine, state["gateways"][0]["pid"])
    ]
    for pid in (state["supervisor"]["pid"], *guards):
        os.kill(pid, signal.SIGKILL)
    assert release.run("down").returncode == 0
    release.nothing_left(1)


def test_a_damaged_state_does_not_keep_down_from_working(release: Any, wait: Wait) -> None:
    release.up()
    supervisor = release.state()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)  # it writes its state anew whenever something changes
    (release.root / "state.json").write_text("{")
    assert release.run("status").returncode == 17
    os.kill(supervisor, signal.SIGCONT)
    (release.root / "state.json").write_text("{")
    assert release.run("down").returncode == 0
    release.nothing_left()
    assert release.run("down").stdout == "tri was not running\n"


def test_a_reused_pid_is_not_taken_for_the_supervisor(release: Any) -> None:
    """As after a reboot: the recorded pid belongs to somebody else."""
    release.up()
    state = (release.root / "state.json").read_text()
    supervisor = release.state()["supervisor"]["pid"]
    release.run("down")
    (release.root / "state.json").write_text(state.replace(f'"pid": {supervisor}', f'"pid": {os.getpid()}'))
    assert release.run("status").stdout.startswith("tri: stale")
    assert release.run("down").returncode == 0  # and this test goes on: it was not killed


def test_a_supervisor_that_hangs_is_killed_by_down(release: Any) -> None:
    release.up()
    os.kill(release.state()["supervisor"]["pid"], signal.SIGSTOP)
    assert release.run("status").returncode == 17
    assert release.run("down", "--timeout", "1").returncode == 0
    release.nothing_left()


def test_a_refused_client_does_not_disturb_the_control_socket(release: Any) -> None:
    release.up()
    for nonsense in (b"", b"\n", b"[]\n", b'{"command": "nothing"}\n', b"\xff\xfe\n", b"x" * 2_000_000):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(ReleasePaths(release.root).control_socket))
            try:
                connection.sendall(nonsense)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(4096)
            except OSError:
                continue
    assert release.state()["ready"] is True
