"""The managed environment as it really is: what is in it, and what its commands say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tri_serve.launch.check import check_environment
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.pins import EXCLUDED

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def scripts(engine_environment: EngineEnvironment) -> Path:
    assert engine_environment.path is not None
    return engine_environment.path / "bin"


def test_it_can_run_the_engine(engine_environment: EngineEnvironment) -> None:
    report = check_environment(engine_environment)
    assert report.problems == ()
    assert report.facts["platform"] == "cpu"


def test_vllm_says_its_version(scripts: Path) -> None:
    done = run(scripts / "vllm", "--version")
    assert (done.returncode, done.stdout.split()[-1]) == (0, "0.32.0+cpu")


@pytest.mark.parametrize("command", [("serve",), ("bench", "serve")], ids=["serve", "bench"])
def test_vllm_s_commands_start(scripts: Path, command: tuple[str, ...]) -> None:
    done = run(scripts / "vllm", *command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: vllm" in done.stdout


def test_every_requirement_is_met_but_those_left_out_on_purpose(scripts: Path) -> None:
    complaints = run(scripts / "pip", "check").stdout.splitlines()
    missing = {line.split(" requires ")[1].split(",")[0] for line in complaints if "not installed" in line}
    assert len(complaints) == len([line for line in complaints if "not installed" in line])
    assert missing == set(EXCLUDED) - {"torch"}


def test_nothing_of_cuda_is_in_it(scripts: Path) -> None:
    names = {line.partition("==")[0].lower() for line in run(scripts / "pip", "freeze").stdout.splitlines()}
    assert "torch" in names
    assert not [name for name in names if name.startswith(("nvidia", "cuda", "triton"))]
