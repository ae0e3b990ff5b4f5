from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.pins import requirement_names
from tri_serve.launch.plugins import has_plugin, plugin_for


@pytest.mark.parametrize("method", ["none", "awq", "gptq", "compressed-tensors"])
def test_other_checkpoints_need_no_plugin(method: str) -> None:
    assert plugin_for("vllm", "0.32.0", method) is None


@pytest.mark.parametrize(
    ("version", "modules"),
    [
        ("0.27.1", ("bitsandbytes",)),
        ("0.28.0", ("bitsandbytes", "vllm_bnb_plugin")),
        ("0.32.0", ("bitsandbytes", "vllm_bnb_plugin")),
    ],
)
def test_bitsandbytes_checkpoints_need_the_plugin_since_it_left_vllm(
    version: str, modules: tuple[str, ...]
) -> None:
    plugin = plugin_for("vllm", version, "bitsandbytes")
    assert plugin is not None
    assert plugin.modules == modules


def test_the_pins_are_of_what_is_installed_and_of_nothing_else() -> None:
    plugin = plugin_for("vllm", "0.32.0", "bitsandbytes")
    assert plugin is not None
    text = (files("tri_serve.launch") / "pins" / "vllm-plugins.txt").read_text(encoding="utf-8")
    wanted = {package.partition(">")[0] for package in plugin.packages}
    assert requirement_names(text) == wanted
    assert text.count("--hash=sha256:") >= len(wanted)


def test_of_a_mere_command_nothing_is_known() -> None:
    command = EngineEnvironment("vllm", "0.32.0", "cuda", None, ("/opt/vllm",), managed=False, path=None)
    plugin = plugin_for("vllm", "0.32.0", "bitsandbytes")
    assert plugin is not None
    assert has_plugin(command, plugin)
    assert not has_plugin(
        EngineEnvironment(
            "vllm", "0.32.0", "cuda", Path("/nowhere/python"), ("p",), managed=False, path=None
        ),
        plugin,
    )
