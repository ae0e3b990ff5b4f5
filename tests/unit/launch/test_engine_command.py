from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tri_serve.cli.engine import engine
from tri_serve.errors import EngineEnvironmentError, UsageError


@pytest.fixture(autouse=True)
def _no_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_list_names_an_environment_of_the_user_s_own() -> None:
    done = CliRunner().invoke(engine, ["list", "--json", "--set", f"engine.python={sys.executable}"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)
    assert (found["managed"], found["named"]) == (False, True)
    assert found["where"].startswith(sys.executable)


def test_list_says_how_to_make_the_environment_that_is_missing() -> None:
    done = CliRunner().invoke(engine, ["list", "--set", "engine.device=cpu"])
    assert done.exit_code == 0, done.output
    assert "tri-serve engine install vllm==0.32.0 --cpu" in done.stderr


def test_check_of_a_missing_environment_is_an_error() -> None:
    done = CliRunner().invoke(engine, ["check", "--engine", "vllm==0.32.0", "--cpu"])
    assert isinstance(done.exception, EngineEnvironmentError)


def test_check_of_a_python_without_vllm_names_what_is_missing() -> None:
    done = CliRunner().invoke(
        engine, ["check", "--json", "--set", f"engine.python={sys.executable}", "--set", "engine.device=cpu"]
    )
    assert isinstance(done.exception, EngineEnvironmentError)
    assert "No module named 'vllm'" in done.exception.message
    assert json.loads(done.stdout)["ok"] is False


@pytest.mark.parametrize("requirement", ["sglang", "vllm==", "vllm>=0.3", "vllm==x", "--", "vllm==1;evil"])
def test_what_names_no_engine_is_a_usage_error(requirement: str) -> None:
    done = CliRunner().invoke(engine, ["install", "--cpu", "--", requirement])
    assert isinstance(done.exception, UsageError)
