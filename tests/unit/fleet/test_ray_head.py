"""The private Ray's folder, token, variables and command line. Nothing here starts a Ray."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tri_serve.errors import FleetError
from tri_serve.fleet import detached
from tri_serve.fleet.ray import head
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import FleetPhase, FleetState, SupervisorState


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReleasePaths:
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    found = ReleasePaths(tmp_path / "releases" / "tri")
    found.create()
    return found


def test_the_folder_is_the_users_alone_and_goes_with_what_is_in_it(
    paths: ReleasePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "_LONGEST_FOLDER", 1_000)
    folder = head.make_temporary_folder(paths)
    assert [each.stat().st_mode & 0o777 for each in (folder, folder.parent)] == [0o700, 0o700]
    (folder / "session").mkdir()
    (folder / "session" / "log").touch()
    assert list(head.make_temporary_folder(paths).iterdir()) == []
    head.discard_temporary_folder(paths)
    assert not folder.parent.exists()


def test_two_releases_have_two_folders_and_one_takes_not_the_others(
    paths: ReleasePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "_LONGEST_FOLDER", 1_000)
    other = ReleasePaths(paths.root.parent / "other")
    first, second = head.make_temporary_folder(paths), head.make_temporary_folder(other)
    assert first != second
    head.discard_temporary_folder(paths)
    assert second.exists()


def test_a_temporary_place_too_deep_for_sockets_is_left_alone(
    paths: ReleasePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("deep" * 30)))
    folder = head.temporary_folder(paths)
    assert folder.is_relative_to("/tmp")
    longest = folder / "session_2026-01-01_00-00-00_000000_4194304" / "sockets" / "plasma_store"
    assert len(os.fsencode(longest)) <= 107


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_made_is_one_line(
    paths: ReleasePaths, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_self: Path, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FleetError, match=f"for Ray: {os.strerror(number)}$") as refused:
        head.make_temporary_folder(paths)
    assert "\n" not in refused.value.message
    assert refused.value.hint is not None
    assert "--supervisor process" in refused.value.hint


def test_a_name_that_somebody_holds_as_a_link_is_not_followed(
    paths: ReleasePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "_LONGEST_FOLDER", 1_000)
    theirs = tmp_path / "theirs"
    (theirs / head.temporary_folder(paths).name).mkdir(parents=True)
    head.temporary_folder(paths).parent.symlink_to(theirs)
    with pytest.raises(FleetError, match="belongs to another user"):
        head.make_temporary_folder(paths)
    head.discard_temporary_folder(paths)
    assert (theirs / head.temporary_folder(paths).name).exists()


@pytest.mark.parametrize("written", [True, False])
def test_down_removes_what_the_ray_of_a_dead_supervisor_left(
    paths: ReleasePaths, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    monkeypatch.setattr(head, "_LONGEST_FOLDER", 1_000)
    dead = SupervisorState(pid=os.getpid(), ticks=1, boot="another", token="no-process-has-it", started=1.0)
    state = FleetState(
        release="tri",
        phase=FleetPhase.RUNNING,
        url="http://127.0.0.1:8000",
        model="tri-tiny",
        source="tiny:bf16",
        engine="vllm",
        supervisor=dead,
        replicas=(),
        gateways=(),
    )
    paths.state.write_text(state.model_dump_json() if written else "{")
    folder, token = head.make_temporary_folder(paths), head.make_token(paths)
    (folder / "session").mkdir()
    detached.stop(paths, timeout=1.0, progress=lambda _line: None)
    assert not folder.exists()
    assert not token.exists()


def test_a_token_is_new_each_time_and_readable_by_the_user_alone(paths: ReleasePaths) -> None:
    first = head.make_token(paths).read_text()
    second = head.make_token(paths)
    assert len(first) == 64
    assert second.read_text() != first
    assert second.stat().st_mode & 0o777 == 0o600


def test_a_token_that_cannot_be_written_is_one_line(
    paths: ReleasePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, _text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(head, "write_private", refuse)
    with pytest.raises(FleetError, match=r"cannot write .*ray-token: No space left on device$"):
        head.make_token(paths)


def test_the_users_ray_settings_and_secrets_stay_out(tmp_path: Path) -> None:
    environ = {
        "RAY_ADDRESS": "10.0.0.1:6379",
        "RAY_TMPDIR": "/somewhere",
        "RAY_AUTH_TOKEN": "the users",
        "PYTHONPATH": "/project",
        "TRI_SERVE_API_KEYS": "alice",
        "VLLM_API_KEY": "key",
        "PATH": "/bin",
        "HF_HOME": "/models",
    }
    made = head.private_environment(environ, tmp_path / "token")
    assert set(environ) & set(made) == {"PATH", "HF_HOME"}
    assert made["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert made["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_the_command_line_holds_no_secret_and_binds_to_loopback(paths: ReleasePaths) -> None:
    token = head.make_token(paths).read_text()
    argv = head.head_command(port=4321, folder=Path("/tmp/x"), cpus=2, gpus=1)
    assert token not in " ".join(argv)
    assert {"--host=127.0.0.1", "--port=4321", "--folder=/tmp/x", "--gpus=1"} <= set(argv)
