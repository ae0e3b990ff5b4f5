"""Which logs a release has, here and on other nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.errors import UsageError
from tri_serve.fleet.log_files import RemoteLog, log_files
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import FleetPhase, FleetState, ReplicaPhase, ReplicaState, SupervisorState


def fleet(*replicas: ReplicaState) -> FleetState:
    return FleetState(
        release="tri",
        phase=FleetPhase.RUNNING,
        target="ray",
        url="http://10.0.0.1:8000",
        model="m",
        source="s",
        engine="vllm",
        supervisor=SupervisorState.current("token"),
        replicas=replicas,
        gateways=(),
    )


def replica(number: int, log: Path) -> ReplicaState:
    return ReplicaState(
        name=f"replica-{number}", phase=ReplicaPhase.READY, since=0, node="10.0.0.2", log=str(log)
    )


@pytest.fixture
def paths(tmp_path: Path) -> ReleasePaths:
    paths = ReleasePaths(tmp_path / "tri")
    paths.create()
    paths.log("supervisor").touch()
    return paths


def test_a_log_on_another_node_is_named_and_one_that_can_be_read_is_read(
    paths: ReleasePaths, tmp_path: Path
) -> None:
    shared = tmp_path / "shared.log"
    shared.touch()
    far = Path("/nowhere/replica-1.log")
    state = fleet(replica(0, shared), replica(1, far), replica(2, paths.log("replica-2")))
    files, elsewhere = log_files(paths, None, state)
    assert files == {"supervisor": paths.log("supervisor"), "replica-0": shared}
    assert elsewhere == {"replica-1": RemoteLog("10.0.0.2", far)}
    assert log_files(paths, "replica-1", state) == ({}, elsewhere)


def test_a_log_that_is_nowhere_is_refused_with_those_that_are(paths: ReleasePaths) -> None:
    with pytest.raises(UsageError, match="there are: supervisor, replica-1"):
        log_files(paths, "replica-7", fleet(replica(1, Path("/nowhere/replica-1.log"))))
