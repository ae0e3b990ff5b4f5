"""``status`` and ``down`` of a release that has no supervisor and may serve on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.cli.main import run
from tri_serve.errors import FleetError
from tri_serve.fleet import detached
from tri_serve.fleet.cluster_record import keep_record
from tri_serve.fleet.detached import Stopped
from tri_serve.fleet.release import ReleasePaths, release_paths


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReleasePaths:
    """A release whose state is gone, as after a `down` that did not reach the cluster."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = release_paths("blue")
    made.create()
    keep_record(made, "10.0.0.1:6379", 60.0)
    return made


@pytest.mark.parametrize("command", [("status",), ("status", "-r", "blue"), ("restart", "-r", "blue")])
def test_what_may_serve_is_not_said_to_be_down(
    command: tuple[str, ...], paths: ReleasePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(list(command)) == FleetError.exit_code
    said = capsys.readouterr().err
    assert "blue has no supervisor; what it ran on the cluster at 10.0.0.1:6379 may still serve" in said
    assert "tri-serve up -r blue takes it over, tri-serve down -r blue stops it" in said


def test_it_is_named_beside_other_releases(paths: ReleasePaths, capsys: pytest.CaptureFixture[str]) -> None:
    other = release_paths("green")
    other.create()
    keep_record(other, "10.0.0.2:6379", 60.0)
    assert run(["status"]) == 1
    said = capsys.readouterr().err
    assert "at 10.0.0.1:6379 may still serve" in said
    assert "at 10.0.0.2:6379 may still serve" in said


@pytest.mark.parametrize(
    ("stopped", "words"),
    [
        (Stopped(ran=True), "blue is stopped\n"),
        (Stopped(ran=False), "blue was not running\n"),
        (
            Stopped(ran=True, forgotten=("10.0.0.1:6379",)),
            "blue is forgotten; what may run at 10.0.0.1:6379 was not stopped\n",
        ),
    ],
)
def test_down_says_what_it_did(
    stopped: Stopped,
    words: str,
    paths: ReleasePaths,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(detached, "stop", lambda _paths, **_more: stopped)
    assert run(["down", "-r", "blue", "--forget"]) == 0
    assert capsys.readouterr().out == words
