"""Client keys on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tri_serve.errors import SpecError, UsageError
from tri_serve.fleet.keys import (
    client_key_hashes,
    create_key,
    default_keys_file,
    disable_key,
    environment_key_hashes,
    hash_key,
    read_keys,
)
from tri_serve.spec.gateway import GatewaySpec


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own" / "keys.json"


def test_a_new_key_is_kept_as_its_hash_alone(file: Path) -> None:
    key = create_key(file, "alice")
    assert len(key) >= 40
    assert key not in file.read_text()
    assert read_keys(file).keys[0].sha256 == hash_key(key)


def test_the_file_is_private(file: Path) -> None:
    create_key(file, "alice")
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]  # no half-written one beside it


def test_keys_of_one_file_differ(file: Path) -> None:
    assert create_key(file, "alice") != create_key(file, "bob")
    assert [key.name for key in read_keys(file).keys] == ["alice", "bob"]


def test_a_name_is_taken_once(file: Path) -> None:
    create_key(file, "alice")
    with pytest.raises(UsageError, match="a key named 'alice' exists"):
        create_key(file, "alice")


@pytest.mark.parametrize("name", ["", "a b", "-x", "é", "a" * 65, "a\nb", "a\n"])
def test_a_bad_name_is_refused(file: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not a key name"):
        create_key(file, name)


def test_a_disabled_key_is_not_let_in(file: Path) -> None:
    create_key(file, "alice")
    kept = create_key(file, "bob")
    assert disable_key(file, "alice") is True
    assert disable_key(file, "alice") is False
    assert client_key_hashes(GatewaySpec(keys_file=str(file)), {}) == {"bob": hash_key(kept)}


def test_disabling_an_unknown_key_names_the_known(file: Path) -> None:
    create_key(file, "alice")
    with pytest.raises(UsageError, match=r"no key named 'bob' .*; there are: alice"):
        disable_key(file, "bob")


def test_all_keys_disabled_does_not_open_the_gateway(file: Path) -> None:
    create_key(file, "alice")
    disable_key(file, "alice")
    with pytest.raises(
        SpecError, match="every client key in it is disabled, so nobody could use the gateway"
    ):
        client_key_hashes(GatewaySpec(keys_file=str(file)), {})


def test_a_named_file_that_is_missing_is_an_error(file: Path) -> None:
    with pytest.raises(SpecError, match="does not exist") as caught:
        client_key_hashes(GatewaySpec(keys_file=str(file)), {})
    assert caught.value.hint == f"tri-serve keys create NAME --file {file}"


def test_without_a_file_no_key_is_asked_for() -> None:
    assert client_key_hashes(GatewaySpec(), {}) == {}


def test_the_default_file_counts_when_it_exists() -> None:
    key = create_key(default_keys_file(), "alice")
    assert client_key_hashes(GatewaySpec(), {}) == {"alice": hash_key(key)}


def test_keys_of_the_environment_add_to_the_file(file: Path) -> None:
    create_key(file, "alice")
    hashes = environment_key_hashes({"TRI_SERVE_API_KEYS": " one ,,two"})
    assert hashes == {"env-1": hash_key("one"), "env-2": hash_key("two")}
    assert set(client_key_hashes(GatewaySpec(keys_file=str(file)), hashes)) == {"alice", "env-1", "env-2"}


@pytest.mark.parametrize("text", ["", "{}x", "[]", '{"keys": [{"name": "a"}]}', '{"other": 1}'])
def test_another_file_is_refused_in_one_line(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(SpecError, match="is not a file of client keys") as caught:
        read_keys(file)
    assert "\n" not in caught.value.message


def test_a_file_that_others_can_write_is_refused(file: Path) -> None:
    create_key(file, "alice")
    file.chmod(0o666)
    with pytest.raises(SpecError, match="can be written by other users"):
        read_keys(file)


def test_the_file_holds_nothing_but_names_hashes_and_times(file: Path) -> None:
    create_key(file, "alice")
    assert set(json.loads(file.read_text())["keys"][0]) == {"name", "sha256", "created", "disabled"}
