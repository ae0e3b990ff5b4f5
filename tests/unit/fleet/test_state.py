"""The state file, and who a recorded supervisor is."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from tri_serve.boot import boot_id
from tri_serve.errors import FleetError
from tri_serve.fleet.state import (
    FleetPhase,
    FleetState,
    GatewayState,
    ReplicaPhase,
    ReplicaState,
    SupervisorState,
    read_state,
    write_private,
)


def fleet_state(phase: FleetPhase = FleetPhase.RUNNING, *, ready: bool = True) -> FleetState:
    return FleetState(
        release="tri",
        phase=phase,
        url="http://127.0.0.1:8000",
        model="tri-tiny",
        source="tiny:awq",
        engine="vllm 0.32.0",
        supervisor=SupervisorState.current("token"),
        replicas=(ReplicaState(name="replica-0", phase=ReplicaPhase.READY, since=1.0, log="/l"),),
        gateways=(GatewayState(phase="running", since=1.0, ready=ready, log="/g"),),
    )


def test_a_state_survives_the_disk(tmp_path: Path) -> None:
    write_private(tmp_path / "state.json", fleet_state().model_dump_json())
    assert read_state(tmp_path / "state.json") == fleet_state().model_copy(
        update={"supervisor": read_state(tmp_path / "state.json").supervisor}  # type: ignore[union-attr]
    )


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert read_state(tmp_path / "state.json") is None


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"release": "tri"}'])
def test_a_damaged_state_is_said_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(FleetError, match="damaged") as caught:
        read_state(tmp_path / "state.json")
    assert "tri-serve down" in (caught.value.hint or "")


def test_a_written_file_is_private_and_whole(tmp_path: Path) -> None:
    write_private(tmp_path / "f", "old")
    write_private(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_this_process_is_alive() -> None:
    assert SupervisorState.current("t").alive


def test_another_process_with_the_same_pid_is_not_the_supervisor() -> None:
    me = SupervisorState.current("t")
    assert not me.model_copy(update={"ticks": me.ticks - 1}).alive


def test_no_supervisor_survives_a_boot() -> None:
    assert not SupervisorState.current("t").model_copy(update={"boot": "another"}).alive


@pytest.mark.parametrize(
    ("boot", "host", "phase", "expected"),
    [
        ("another", "node-b", FleetPhase.RUNNING, "node-b"),
        ("another", "node-b", FleetPhase.FAILED, None),  # it has ended
        ("another", platform.node(), FleetPhase.RUNNING, None),  # a boot since
        ("another", "", FleetPhase.RUNNING, None),  # of a version that did not say
        (boot_id(), "a-container", FleetPhase.RUNNING, None),  # this machine by another name
    ],
)
def test_a_supervisor_of_another_machine_is_told_from_one_before_a_boot(
    boot: str, host: str, phase: FleetPhase, expected: str | None
) -> None:
    state = fleet_state(phase)
    supervisor = state.supervisor.model_copy(update={"boot": boot, "host": host})
    assert state.model_copy(update={"supervisor": supervisor}).elsewhere == expected


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        state = SupervisorState.current("t").model_copy(update={"pid": process.pid, "ticks": int(fields[19])})
        assert state.alive
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not state.alive


@pytest.mark.parametrize(
    ("phase", "gateway_ready", "expected"),
    [
        (FleetPhase.RUNNING, True, True),
        (FleetPhase.CHANGING, True, True),
        (FleetPhase.RUNNING, False, False),
        (FleetPhase.STARTING, True, False),
        (FleetPhase.STOPPING, True, False),
    ],
)
def test_ready_means_that_a_request_would_be_answered(
    phase: FleetPhase, gateway_ready: bool, expected: bool
) -> None:
    assert fleet_state(phase, ready=gateway_ready).ready is expected
