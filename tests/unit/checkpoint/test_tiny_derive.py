"""The tiny checkpoint in the cache is always whole, whoever else makes it or damaged it."""

import shutil
import threading
from pathlib import Path

import pytest

from tri_serve.checkpoint.inspect import inspect_checkpoint
from tri_serve.checkpoint.tiny import TINY_FORMATS, TinyFormat, derive, export_tiny, tiny_checkpoint
from tri_serve.errors import MissingExtraError, ResourceError, UsageError

METHODS = {"bf16": "none", "awq": "awq", "gptq": "gptq", "ct": "compressed-tensors", "bnb4": "bitsandbytes"}


def files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize("fmt", TINY_FORMATS)
def test_each_format_is_a_whole_checkpoint_of_tris_shape(fmt: TinyFormat, tmp_path: Path) -> None:
    facts = inspect_checkpoint(tiny_checkpoint(fmt, tmp_path))
    shape = facts.architecture
    assert facts.quantization.method == METHODS[fmt]
    assert facts.has_chat_template
    assert shape.num_attention_heads == 4 * shape.num_key_value_heads
    assert (shape.head_dim, shape.max_position_embeddings, shape.tie_word_embeddings) == (160, 8192, False)


@pytest.mark.parametrize("fmt", TINY_FORMATS)
def test_each_format_has_the_same_bytes_every_time(fmt: TinyFormat, tmp_path: Path) -> None:
    first, second = tiny_checkpoint(fmt, tmp_path / "one"), tiny_checkpoint(fmt, tmp_path / "two")
    assert first.name == second.name
    assert files(first) == files(second)


def test_the_committed_weights_are_small() -> None:
    assert (derive.SOURCE / "model.safetensors").stat().st_size <= 9_000_000


def test_a_second_call_makes_nothing(tmp_path: Path) -> None:
    first = tiny_checkpoint("awq", tmp_path)
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert tiny_checkpoint("awq", tmp_path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "extra", "no manifest", "empty"])
def test_a_damaged_directory_is_made_again(damage: str, tmp_path: Path) -> None:
    directory = tiny_checkpoint("bf16", tmp_path)
    whole = files(directory)
    weights = directory / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(whole["model.safetensors"][:-1])
    elif damage == "flipped":
        raw = bytearray(whole["model.safetensors"])
        raw[-1] ^= 1
        weights.write_bytes(raw)
    elif damage == "missing":
        weights.unlink()
    elif damage == "extra":
        (directory / "pytorch_model.bin").touch()
    elif damage == "no manifest":
        (directory / derive.MANIFEST).unlink()
    else:
        shutil.rmtree(directory)
        directory.mkdir()
    assert files(tiny_checkpoint("bf16", tmp_path)) == whole


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    directory = tiny_checkpoint("bf16", tmp_path)
    for leftover in ("making", "damaged"):
        (directory.parent / f".{leftover}-{directory.name}").mkdir()
    (directory / derive.MANIFEST).unlink()
    tiny_checkpoint("bf16", tmp_path)
    assert sorted(entry.name for entry in directory.parent.iterdir()) == [".lock", directory.name]


def test_a_change_of_the_trained_files_gives_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiny_checkpoint("bf16", tmp_path)
    changed = tmp_path / "source"
    shutil.copytree(derive.SOURCE, changed)
    (changed / "chat_template.jinja").write_text("{{ messages }}")
    monkeypatch.setattr(derive, "SOURCE", changed)
    assert tiny_checkpoint("bf16", tmp_path) != before


def test_threads_that_ask_at_once_get_one_whole_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    write = derive.write_format

    def counted(fmt: TinyFormat, directory: Path) -> None:
        made.append(directory)
        write(fmt, directory)

    monkeypatch.setattr(derive, "write_format", counted)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(tiny_checkpoint("gptq", tmp_path))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 6
    assert len(made) == 1


def test_a_failure_while_writing_leaves_no_directory_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fmt: TinyFormat, directory: Path) -> None:
        (directory / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(derive, "write_format", full)
        with pytest.raises(ResourceError, match="No space left on device") as refused:
            tiny_checkpoint("bf16", tmp_path)
    assert "XDG_CACHE_HOME" in str(refused.value.hint)
    assert not [entry for entry in (tmp_path / "checkpoints").iterdir() if entry.name.startswith("tiny-")]
    assert inspect_checkpoint(tiny_checkpoint("bf16", tmp_path)).parameters


def test_without_numpy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is how Python says: this import fails.
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    with pytest.raises(MissingExtraError, match="the optional part 'checkpoint'"):
        tiny_checkpoint("awq", tmp_path)
    assert tiny_checkpoint("bf16", tmp_path).is_dir()


def test_an_export_is_what_the_cache_has(tmp_path: Path) -> None:
    export_tiny("ct", tmp_path / "new" / "ct")
    assert files(tmp_path / "new" / "ct") == files(tiny_checkpoint("ct", tmp_path / "cache"))


def test_an_export_touches_nothing_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(UsageError, match="not an empty directory"):
        export_tiny("bf16", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]
