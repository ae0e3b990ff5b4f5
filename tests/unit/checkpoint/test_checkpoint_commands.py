"""What a user of `tri-serve checkpoint` sees."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tri_serve.checkpoint.tiny import TINY_FORMATS, tiny_checkpoint
from tri_serve.cli.checkpoint import FORMATS, checkpoint
from tri_serve.errors import CheckpointError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "tri-serve"


def run(*args: str) -> str:
    return CliRunner().invoke(checkpoint, args, catch_exceptions=False, standalone_mode=False).output


def test_the_formats_on_offer_are_those_that_can_be_made() -> None:
    assert FORMATS == TINY_FORMATS


def test_tiny_prints_a_directory_and_nothing_else(cache: Path) -> None:
    assert run("tiny", "gptq") == f"{tiny_checkpoint('gptq', cache)}\n"


def test_tiny_makes_awq_unless_told_otherwise(cache: Path) -> None:
    assert Path(run("tiny").strip()).name.startswith("tiny-awq-")


def test_tiny_writes_where_it_is_told(tmp_path: Path) -> None:
    target = tmp_path / "here"
    assert run("tiny", "bf16", "--output", str(target)) == f"{target}\n"
    assert (target / "model.safetensors").is_file()


def test_tiny_refuses_a_directory_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(checkpoint, ["tiny", "--output", str(tmp_path)])
    assert isinstance(result.exception, UsageError)


def test_inspect_fits_a_terminal_of_80_columns_but_for_the_path(cache: Path) -> None:
    lines = run("inspect", "tiny:awq").splitlines()
    assert max(len(line) for line in lines[1:]) <= 80
    text = "\n".join(lines)
    for shown in (
        "LlamaForCausalLM",
        "3,737,856",
        "awq, 4 bits, groups of 128",
        "2,560 B a token",
        "8,192 tokens",
    ):
        assert shown in text


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_inspect_gives_the_same_facts_to_programs(output: str) -> None:
    text = run("inspect", "tiny:ct", "-o", output)
    facts = json.loads(text) if output == "json" else yaml.safe_load(text)
    assert facts["parameters"] == 3_737_856
    assert facts["quantization"]["method"] == "compressed-tensors"
    assert facts["bytes"] == sum(facts["bytes_by_kind"].values())
    assert facts["architecture"]["head_dim"] == 160
    assert facts["kv_bytes_per_token"] == 2_560


def test_inspect_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    result = CliRunner().invoke(checkpoint, ["inspect", str(tmp_path)])
    assert isinstance(result.exception, CheckpointError)
