"""Where a release keeps its things."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tri_serve.errors import FleetError
from tri_serve.fleet.release import ReleasePaths, exclusive, known_releases, release_paths


def test_everything_of_a_release_is_under_its_folder(tmp_path: Path) -> None:
    paths = release_paths("tri", {"XDG_STATE_HOME": str(tmp_path)})
    assert paths.root == tmp_path / "tri-serve" / "releases" / "tri"
    assert paths.release == "tri"


def test_folders_are_private(tmp_path: Path) -> None:
    paths = ReleasePaths(tmp_path / "a" / "tri")
    paths.create()
    assert {p.stat().st_mode & 0o777 for p in (paths.root, paths.logs)} == {0o700}


def test_sockets_of_a_long_path_go_to_a_short_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Path("/tmp") / f"tri-test-{tmp_path.name}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    paths = ReleasePaths(tmp_path / ("x" * 100) / "tri")
    paths.create()
    try:
        assert len(str(paths.admin_socket(999_999))) <= 107
        assert paths.sockets.parent == runtime / "tri-serve"
        assert paths.sockets.stat().st_mode & 0o777 == 0o700
    finally:
        paths.sockets.rmdir()
        paths.sockets.parent.rmdir()
        runtime.rmdir()


def test_a_link_in_the_place_of_the_socket_folder_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="tri-") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        theirs = tmp_path / "theirs"
        theirs.mkdir(mode=0o755)
        (Path(runtime) / "tri-serve").symlink_to(theirs)
        with pytest.raises(FleetError, match="is a link"):
            ReleasePaths(tmp_path / ("x" * 100) / "tri").create()
    assert list(theirs.iterdir()) == []
    assert theirs.stat().st_mode & 0o777 == 0o755


def test_two_long_paths_do_not_share_their_sockets(tmp_path: Path) -> None:
    one, two = (ReleasePaths(tmp_path / ("x" * 100) / name) for name in ("a", "b"))
    assert one.sockets != two.sockets


def test_sockets_of_a_short_path_stay_with_the_release() -> None:
    assert ReleasePaths(Path("/home/u/.local/state/tri-serve/releases/tri")).control_socket == Path(
        "/home/u/.local/state/tri-serve/releases/tri/control.sock"
    )


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    paths = ReleasePaths(tmp_path)
    with (
        exclusive(paths, "up", "busy"),
        pytest.raises(FleetError, match=r"^busy$"),
        exclusive(paths, "up", "busy"),
    ):
        raise AssertionError("the second holder got in")
    with exclusive(paths, "up", "busy"):
        pass


def test_releases_with_a_state_or_on_a_cluster_are_known(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    for name in ("b", "a", "c", "gone"):
        release_paths(name, environ).root.mkdir(parents=True)
    for name in ("b", "a"):
        release_paths(name, environ).state.touch()
    for name in ("b", "c"):
        release_paths(name, environ).cluster.touch()
    assert known_releases(environ) == ("a", "b", "c")
