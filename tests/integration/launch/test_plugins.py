"""What is added to an environment for bitsandbytes checkpoints, from a package index of tiny wheels."""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tri_serve.errors import EngineEnvironmentError
from tri_serve.launch.environment import EngineEnvironment, read_environment
from tri_serve.launch.install import install_environment
from tri_serve.launch.plugins import has_plugin, install_plugin, plugin_for, require_plugin

from .conftest import VERSION, Wheels


def names(environment: EngineEnvironment) -> set[str]:
    assert environment.path is not None
    site = next(environment.path.glob("lib/python*/site-packages"))
    return {str(found.metadata["Name"]) for found in distributions(path=[str(site)])}


def test_a_plugin_comes_once_and_alone(
    wheels: Wheels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels.use(monkeypatch)
    environment = install_environment(VERSION, "cpu", tmp_path, print)
    before = names(environment)
    plugin = plugin_for("vllm", VERSION, "bitsandbytes")
    assert plugin is not None
    assert not has_plugin(environment, plugin)
    said: list[str] = []
    install_plugin(environment, plugin, said.append)
    assert has_plugin(environment, plugin)
    assert names(environment) - before == {"bitsandbytes", "vllm-bnb-plugin"}
    assert said[0] == f"adding bitsandbytes and vllm_bnb_plugin to {environment.path}"
    said.clear()
    install_plugin(environment, plugin, said.append)
    assert said == []
    assert environment.path is not None
    assert read_environment(environment.path) == environment


def test_an_environment_of_the_users_own_is_left_alone_and_what_it_lacks_is_named() -> None:
    own = EngineEnvironment(
        "vllm", VERSION, "cpu", Path(sys.executable), (sys.executable,), managed=False, path=None
    )
    plugin = plugin_for("vllm", VERSION, "bitsandbytes")
    assert plugin is not None
    with pytest.raises(EngineEnvironmentError, match="lacks bitsandbytes or vllm_bnb_plugin") as refused:
        require_plugin(own, plugin)
    assert refused.value.hint is not None
    assert "-m pip install vllm-bnb-plugin 'bitsandbytes>=0.48.1'" in refused.value.hint
