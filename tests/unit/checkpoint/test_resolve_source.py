"""Every form of model.source ends at a directory, or at a sentence that says how to get one."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tri_serve.checkpoint.resolve import hub_cache, is_pulled, resolve_source
from tri_serve.errors import CheckpointError
from tri_serve.spec.engine import ModelSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model(source: str, revision: str | None = None) -> ModelSpec:
    return ModelSpec(source=source, revision=revision, served_name="tri")


@pytest.fixture
def hub(tmp_path: Path) -> Mapping[str, str]:
    """An environment whose Hugging Face cache has one model, at one commit."""
    repository = tmp_path / "hub" / "models--trillionlabs--Tri-21B"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "refs" / "pr").mkdir(parents=True)
    for reference in ("main", "pr/1"):
        (repository / "refs" / reference).write_text(COMMIT)
    return {"HF_HUB_CACHE": str(tmp_path / "hub")}


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve_source(model(str(tmp_path)), tmp_path / "cache") == tmp_path


def test_a_relative_directory_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "tri").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_source(model("models/tri"), tmp_path / "cache") == tmp_path / "models" / "tri"


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tri").mkdir()
    assert resolve_source(model("~/tri"), tmp_path / "cache") == tmp_path / "tri"


@pytest.mark.parametrize("revision", [None, "main", "pr/1", COMMIT])
def test_a_hub_name_that_was_fetched_is_found(
    tmp_path: Path, hub: Mapping[str, str], revision: str | None
) -> None:
    found = resolve_source(model("trillionlabs/Tri-21B", revision), tmp_path / "cache", hub)
    assert found == tmp_path / "hub" / "models--trillionlabs--Tri-21B" / "snapshots" / COMMIT


@pytest.mark.parametrize(
    ("name", "revision", "command"),
    [
        ("trillionlabs/Tri-7B", None, "tri-serve checkpoint pull trillionlabs/Tri-7B`"),
        ("trillionlabs/Tri-21B", "v2", "tri-serve checkpoint pull trillionlabs/Tri-21B --revision v2`"),
    ],
)
def test_a_hub_name_that_was_not_fetched_says_how_to_fetch_it(
    tmp_path: Path, hub: Mapping[str, str], name: str, revision: str | None, command: str
) -> None:
    with pytest.raises(CheckpointError, match="nor in the Hugging Face cache") as refused:
        resolve_source(model(name, revision), tmp_path / "cache", hub)
    assert command in str(refused.value.hint)


@pytest.mark.parametrize("revision", ["../..", "..", ".", "a//b", "/etc", "a/./b", "x\x9fy", "m" * 300])
def test_a_revision_that_no_hub_has_is_refused(tmp_path: Path, hub: Mapping[str, str], revision: str) -> None:
    with pytest.raises(CheckpointError, match="a branch, tag or commit is needed"):
        resolve_source(ModelSpec(source="a/b", revision=revision, served_name="m"), tmp_path, hub)


@pytest.mark.parametrize("index", [b"\xff\xfe", b'{"' + b"m" * 300 + b'.safetensors": 1}'])
def test_a_cached_index_that_is_damaged_is_no_reason_to_fall_over(
    tmp_path: Path, hub: Mapping[str, str], index: bytes
) -> None:
    commit = "a" * 40
    repository = hub_cache(hub) / "models--a--b"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors.index.json").write_bytes(index)
    assert not is_pulled(ModelSpec(source="a/b", served_name="m"), tmp_path, hub)


@pytest.mark.parametrize("source", ["/no/such/directory", "./absent", "a/b/c", "tri"])
def test_a_path_that_is_not_there_is_refused_with_what_is_allowed(tmp_path: Path, source: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such directory.*owner/name.*tiny:awq") as refused:
        resolve_source(model(source), tmp_path, {})
    assert refused.value.exit_code == 11


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(CheckpointError, match="it is not a directory"):
        resolve_source(model(str(file)), tmp_path, {})


def test_an_unknown_tiny_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="tiny:bf16, tiny:awq, tiny:gptq, tiny:ct, tiny:bnb4 are allowed"
    ):
        resolve_source(model("tiny:nf4"), tmp_path)


def test_a_tiny_name_is_made_in_the_cache(tmp_path: Path) -> None:
    found = resolve_source(model("tiny:bf16"), tmp_path)
    assert found.is_relative_to(tmp_path)
    assert (found / "config.json").is_file()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HF_HUB_CACHE": "", "HF_HOME": ""}, str(Path.home() / ".cache/huggingface/hub")),
    ],
)
def test_the_hub_cache_is_where_huggingface_hub_has_it(environ: dict[str, str], expected: str) -> None:
    assert hub_cache(environ) == Path(expected)
