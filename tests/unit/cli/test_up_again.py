"""``up`` where something runs already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tri_serve.cli import fleet_up
from tri_serve.cli.fleet_check import Times
from tri_serve.errors import FleetError
from tri_serve.fleet import detached
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.release import ReleasePaths, release_paths
from tri_serve.fleet.state import FleetState, RayState, SupervisorState
from tri_serve.spec.load import load_spec

Make = Callable[..., Any]


@pytest.mark.parametrize(("phase", "expected"), [("failed", ["stop", "start"]), ("waiting", ["converge"])])
def test_a_fleet_whose_ray_was_given_up_starts_as_a_whole(
    phase: Any, expected: list[str], fleet: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(name: str) -> Callable[..., FleetState]:
        def note(*_args: object, **_more: object) -> FleetState:
            done.append(name)
            state: FleetState = fleet()
            return state

        return note

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    found = detached.Found(fleet(ray=RayState(phase=phase, error="Ray died")), alive=True)
    monkeypatch.setattr(detached, "find_fleet", lambda _paths: found)
    monkeypatch.setattr(detached, "stop_here", noted("stop"))
    monkeypatch.setattr(fleet_up, "converge", noted("converge"))
    monkeypatch.setattr(fleet_up, "_start", noted("start"))
    loaded = load_spec("tri-tiny-bf16", [], {})
    fleet_up.up(loaded, "tri", foreground=False, timeout=None, question=None)
    assert done == expected


def test_a_supervisor_of_another_machine_is_not_taken_for_dead(
    fleet: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    paths = release_paths("tri")
    paths.create()
    supervisor = SupervisorState(pid=1, ticks=1, boot="b", token="t", started=1.0, host="node-b")
    paths.state.write_text(fleet(supervisor=supervisor).model_dump_json())
    loaded = load_spec("tri-tiny-bf16", [], {})
    with pytest.raises(FleetError, match="its supervisor runs on node-b"):
        fleet_up.up(loaded, "tri", foreground=False, timeout=None, question=None)
    assert paths.state.exists()


@pytest.mark.parametrize(("serves", "expected"), [(True, "left alone"), (False, "abandoned")])
def test_an_up_that_fails_stops_nothing_that_an_earlier_one_has_on_a_cluster(
    serves: bool,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(_paths: ReleasePaths, _supervisor: object) -> Any:
        paths.cluster.touch()  # as a supervisor that starts makes it
        raise FleetError("the cluster has no node b")

    def done(word: str, left: FleetError | None) -> Any:
        def end(_paths: ReleasePaths, _supervisor: object) -> FleetError | None:
            ended.append(word)
            return left

        return end

    ended: list[str] = []
    paths = ReleasePaths(tmp_path / "tri")
    paths.create()
    if serves:
        paths.cluster.touch()
    monkeypatch.setattr(fleet_up, "check", lambda *_args, **_more: None)
    monkeypatch.setattr(detached, "start_supervisor", lambda *_args: None)
    monkeypatch.setattr(detached, "follow_start", fails)
    monkeypatch.setattr(detached, "abandon", done("abandoned", FleetError("Ray does not answer")))
    monkeypatch.setattr(detached, "leave_cluster_alone", done("left alone", None))
    desired = Desired(spec=load_spec("tri-tiny-bf16", [], {}).spec)
    with pytest.raises(FleetError, match="no node b"):
        fleet_up._start(paths, desired, Times(begun=0.0), None)
    assert ended == [expected]
    said = capsys.readouterr().err
    assert ("goes on without it" if serves else "Ray does not answer; tri-serve down tries again") in said
    assert "nothing is left running" not in said


def test_a_stop_in_the_foreground_that_left_things_on_a_cluster_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def supervised(*_args: object, **_more: object) -> None:
        """Ends in order."""

    paths = ReleasePaths(tmp_path / "tri")
    paths.create()
    monkeypatch.setattr("tri_serve.fleet.supervisor.configure_logging", lambda _file: None)
    monkeypatch.setattr("tri_serve.fleet.supervisor.supervise", supervised)
    target = ["fleet.target=ray", "fleet.ray.address=10.0.0.1:6379", "gateway.host=node"]
    desired = Desired(spec=load_spec("tri-tiny-bf16", [], {}, sets=target).spec)
    fleet_up._run_here(paths, desired, Times(begun=0.0), running=lambda: None)
    paths.cluster.touch()
    with pytest.raises(FleetError, match="was not stopped"):
        fleet_up._run_here(paths, desired, Times(begun=0.0), running=lambda: None)
