"""What a command does with a supervisor, seen at the files and processes that it leaves."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import FleetError
from tri_serve.fleet import detached
from tri_serve.fleet.cluster_record import forget_record, keep_record
from tri_serve.fleet.detached import Stopped
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import FleetPhase, FleetState, SupervisorState

ADDRESS = "10.0.0.1:6379"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReleasePaths:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = ReleasePaths(tmp_path / "tri")
    made.create()
    return made


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[bytes]]:
    """Something that runs and takes no commands."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def unreachable(*_args: Any) -> None:
    raise FleetError("release tri could not be stopped on its cluster: Ray there does not answer")


def test_what_could_not_be_stopped_on_a_cluster_is_told_and_not_raised(
    paths: ReleasePaths, supervisor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detached, "clear_cluster", unreachable)
    left = detached.abandon(paths, supervisor)
    assert left is not None
    assert "Ray there does not answer" in left.message
    assert supervisor.poll() is not None


def test_a_takeover_that_is_given_up_leaves_the_cluster_as_it_is(
    paths: ReleasePaths, supervisor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(detached, "clear_cluster", lambda *_args: asked.append("clear"))
    monkeypatch.setattr(detached, "ask", lambda _path, command, *_args: asked.append(command))
    keep_record(paths, ADDRESS, 60.0)
    detached.leave_cluster_alone(paths, supervisor)
    assert supervisor.poll() is not None
    assert asked == []
    assert paths.cluster.exists()


def silent(_line: str) -> None:
    """Nobody is told."""


def test_what_is_to_be_forgotten_is_stopped_if_it_can_be(
    paths: ReleasePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_record(paths, ADDRESS, 60.0)
    monkeypatch.setattr(detached, "clear_cluster", lambda paths, *_args: forget_record(paths))
    assert detached.stop(paths, timeout=None, progress=silent, forget=True) == Stopped(ran=True)


def test_a_cluster_that_does_not_answer_is_forgotten_only_when_asked_for(
    paths: ReleasePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_record(paths, ADDRESS, 60.0)
    monkeypatch.setattr(detached, "clear_cluster", unreachable)
    with pytest.raises(FleetError, match="Ray there does not answer"):
        detached.stop(paths, timeout=None, progress=silent)
    assert paths.cluster.exists()
    stopped = detached.stop(paths, timeout=None, progress=silent, forget=True)
    assert stopped == Stopped(ran=True, forgotten=(ADDRESS,))
    assert not paths.cluster.exists()


def test_a_damaged_record_can_be_forgotten(paths: ReleasePaths) -> None:
    paths.cluster.write_text("{")
    stopped = detached.stop(paths, timeout=None, progress=silent, forget=True)
    assert stopped.forgotten == ("an address that is not known any more",)
    assert not paths.cluster.exists()


def test_a_supervisor_of_another_machine_is_forgotten_only_when_asked_for(paths: ReleasePaths) -> None:
    state = FleetState(
        release="tri",
        phase=FleetPhase.RUNNING,
        url="http://127.0.0.1:8000",
        model="tri-tiny",
        source="tiny:bf16",
        engine="vllm",
        supervisor=SupervisorState(pid=1, ticks=1, boot="b", token="t", started=1.0, host="node-b"),
        replicas=(),
        gateways=(),
    )
    paths.state.write_text(state.model_dump_json())
    with pytest.raises(FleetError, match="its supervisor runs on node-b"):
        detached.stop(paths, timeout=None, progress=silent)
    assert paths.state.exists()
    stopped = detached.stop(paths, timeout=None, progress=silent, forget=True)
    assert stopped == Stopped(ran=True, forgotten=("node-b",))
    assert not paths.state.exists()


def test_a_start_is_followed_by_what_the_supervisor_writes_and_it_is_asked_once(
    paths: ReleasePaths, supervisor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = FleetState(
        release="tri",
        phase=FleetPhase.STARTING,
        url="http://127.0.0.1:8000",
        model="tri-tiny",
        source="tiny:bf16",
        engine="vllm",
        supervisor=SupervisorState(pid=1, ticks=1, boot="b", token="t", started=1.0, host="node-a"),
        replicas=(),
        gateways=(),
    )
    running = state.model_copy(update={"phase": FleetPhase.RUNNING})
    answers = [running.model_copy(update={"engine": "vllm 1"})]
    monkeypatch.setattr(detached, "live_state", lambda _paths: answers.pop())
    follow = detached.follow_start(paths, supervisor)
    assert next(follow) is None
    paths.state.write_text(state.model_dump_json())
    assert [next(follow), next(follow)] == [state, state]
    paths.state.write_text(running.model_dump_json())
    assert [each and each.engine for each in follow] == ["vllm 1"]
