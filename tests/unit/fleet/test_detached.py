"""What a command does with a supervisor, seen at the files and processes that it leaves."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import FleetError
from tri_serve.fleet import detached
from tri_serve.fleet.cluster_record import keep_record
from tri_serve.fleet.release import ReleasePaths

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
