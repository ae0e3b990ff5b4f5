from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import EngineEnvironmentError, UsageError
from tri_serve.launch.environment import (
    environment_name,
    find_environment,
    list_environments,
    read_environment,
)
from tri_serve.spec.engine import EngineSpec


def make_environment(data: Path, *, python: tuple[int, int] | None = None, **marker: Any) -> Path:
    facts = {
        "kind": "vllm",
        "version": "0.32.0",
        "device": "cpu",
        "python": "3.11.2",
        "torch": "2.13.0+cpu",
        "pins": "0" * 64,
        "packages": 3,
        "bytes": 1,
        "created": "2026-01-01T00:00:00+00:00",
    } | marker
    path = data / "engines" / environment_name(facts["kind"], facts["device"], facts["version"], python)
    (path / "bin").mkdir(parents=True)
    (path / "bin" / "python").symlink_to(sys.executable)
    (path / "environment.json").write_text(json.dumps(facts))
    return path


def test_the_managed_environment_of_version_and_device_is_found(tmp_path: Path) -> None:
    make_environment(tmp_path, version="0.29.0")
    path = make_environment(tmp_path)
    found = find_environment(EngineSpec(), tmp_path, "cpu")
    assert found.path == path
    assert found.managed
    assert found.command == (str(path / "bin/python"), "-m", "vllm.entrypoints.cli.main", "serve")


def test_one_made_with_another_python_serves_but_the_running_one_s_is_preferred(tmp_path: Path) -> None:
    other = make_environment(tmp_path, python=(3, 1))
    assert find_environment(EngineSpec(), tmp_path, "cpu").path == other
    own = make_environment(tmp_path)
    assert find_environment(EngineSpec(), tmp_path, "cpu").path == own


def test_an_environment_without_its_marker_is_absent(tmp_path: Path) -> None:
    (make_environment(tmp_path) / "environment.json").unlink()
    assert list_environments(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "vllm"}'])
def test_an_environment_with_a_damaged_marker_is_absent(tmp_path: Path, content: str) -> None:
    path = make_environment(tmp_path)
    (path / "environment.json").write_text(content)
    assert read_environment(path) is None


def test_an_environment_whose_python_was_removed_is_absent(tmp_path: Path) -> None:
    path = make_environment(tmp_path)
    (path / "bin/python").unlink()
    (path / "bin/python").symlink_to(tmp_path / "gone")
    assert read_environment(path) is None


@pytest.mark.parametrize(
    ("device", "command"),
    [
        ("cpu", "tri-serve engine install vllm==0.32.0 --cpu"),
        ("cuda", "tri-serve engine install vllm==0.32.0"),
    ],
)
def test_a_missing_environment_names_the_command_that_makes_it(
    tmp_path: Path, device: Any, command: str
) -> None:
    with pytest.raises(EngineEnvironmentError) as caught:
        find_environment(EngineSpec(), tmp_path, device)
    assert caught.value.hint == command


def test_a_python_of_one_s_own_keeps_its_path_although_it_is_a_symlink(tmp_path: Path) -> None:
    own = tmp_path / "venv-python"
    own.symlink_to(sys.executable)
    found = find_environment(EngineSpec(python=str(own)), tmp_path, "cpu")
    assert found.python == own
    assert not found.managed


@pytest.mark.parametrize(
    "spec",
    [EngineSpec(python="/nonexistent/python"), EngineSpec(command=("/nonexistent/vllm", "serve"))],
    ids=["python", "command"],
)
def test_a_program_that_is_not_there_is_named(tmp_path: Path, spec: EngineSpec) -> None:
    with pytest.raises(EngineEnvironmentError, match="/nonexistent/"):
        find_environment(spec, tmp_path, "cpu")


def test_a_command_of_one_s_own_is_looked_up_and_keeps_its_arguments(tmp_path: Path) -> None:
    found = find_environment(EngineSpec(command=("sh", "-c", "x")), tmp_path, "cpu")
    assert Path(found.command[0]).is_absolute()
    assert found.command[1:] == ("-c", "x")


def test_an_image_is_refused_by_the_local_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"engine\.image"):
        find_environment(EngineSpec(image="vllm/vllm-openai:v0.32.0"), tmp_path, "cpu")
