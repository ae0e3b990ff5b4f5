"""``scale``: what it asks the supervisor for, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tri_serve.cli import fleet_change
from tri_serve.errors import FleetError, UsageError
from tri_serve.fleet import detached
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.detached import AppliedChanges
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import FleetState
from tri_serve.spec.difference import difference
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec

Make = Callable[..., Any]


@dataclass
class Supervised:
    """Stands for a supervisor: takes what it is asked, and says that it did it."""

    state: FleetState
    spec: Spec
    more: tuple[str, ...] = ()
    """What else than the replicas would change."""
    applied: list[Desired] = field(default_factory=list)
    environment_hashes: dict[str, str] = field(default_factory=dict)

    def running(self, _paths: ReleasePaths) -> Desired:
        return Desired(spec=self.spec, environment_hashes=self.environment_hashes)

    def apply(
        self, _paths: ReleasePaths, desired: Desired, *, preview: bool, progress: Callable[[str], None]
    ) -> AppliedChanges:
        before, after = self.spec.fleet.replicas, desired.spec.fleet.replicas
        differences = self.more + ((f"fleet.replicas: {before} -> {after}",) if before != after else ())
        if not preview:
            self.applied.append(desired)
            progress("replica-2: engine starting")
            progress("replica-2: ready")
        return AppliedChanges(bool(differences), differences, ("start 1 more engine",), False, self.spec)


@pytest.fixture
def paths(tmp_path: Path) -> ReleasePaths:
    found = ReleasePaths(tmp_path / "tri")
    found.create()
    return found


@pytest.fixture
def supervised(paths: ReleasePaths, fleet: Make, monkeypatch: pytest.MonkeyPatch) -> Supervised:
    spec = load_spec("tri-tiny-bf16", [], {}, sets=["fleet.replicas=2"]).spec
    found = Supervised(fleet(), spec)
    monkeypatch.setattr(detached, "live_state", lambda _paths: found.state)
    monkeypatch.setattr(detached, "applied", found.running)
    monkeypatch.setattr(detached, "apply", found.apply)
    monkeypatch.setattr(fleet_change, "check", lambda *_args, **_more: None)
    return found


def test_only_the_number_of_replicas_changes(
    paths: ReleasePaths, supervised: Supervised, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet_change.scale(paths, 3)
    (desired,) = supervised.applied
    assert desired.spec.fleet.replicas == 3
    assert [str(change) for change in difference(supervised.spec, desired.spec)] == ["fleet.replicas: 2 -> 3"]
    captured = capsys.readouterr()
    assert captured.out.splitlines()[:2] == ["  fleet.replicas: 2 -> 3", "→ start 1 more engine"]
    assert "replica-2: ok ready" in captured.err


def test_client_keys_stay_those_of_the_environment_that_started_the_fleet(
    paths: ReleasePaths, supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRI_SERVE_API_KEYS", "another")
    paths.desired.write_text('{"environment_hashes": {"env-1": "from an earlier up"}}')
    supervised.environment_hashes = {"env-1": "a" * 64, "env-2": "b" * 64}
    fleet_change.scale(paths, 3)
    assert supervised.applied[0].environment_hashes == supervised.environment_hashes


def test_the_number_that_it_has_is_no_change(
    paths: ReleasePaths, supervised: Supervised, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet_change.scale(paths, 2)
    assert capsys.readouterr().out == "tri has 2 replicas already\n"
    assert supervised.applied == []


def test_a_fleet_that_follows_its_load_is_not_scaled_by_hand(
    paths: ReleasePaths, supervised: Supervised, fleet: Make
) -> None:
    supervised.state = fleet(autoscaling=(1, 4))
    with pytest.raises(UsageError, match="follows its load between 1 and 4 replicas") as refused:
        fleet_change.scale(paths, 6)
    assert refused.value.hint == "change its bounds: tri-serve up --set fleet.replicas.max=6"
    assert supervised.applied == []


def test_a_fleet_that_does_not_run_yet_is_not_scaled(
    paths: ReleasePaths, supervised: Supervised, fleet: Make
) -> None:
    supervised.state = fleet(phase="starting")
    with pytest.raises(FleetError, match="release tri is starting; wait until it runs"):
        fleet_change.scale(paths, 3)


def test_nothing_else_is_changed_on_the_way(paths: ReleasePaths, supervised: Supervised) -> None:
    supervised.more = ("client keys changed",)
    with pytest.raises(FleetError, match="more of tri than its replicas: client keys changed"):
        fleet_change.scale(paths, 3)
    assert supervised.applied == []
