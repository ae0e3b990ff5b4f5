"""Everything that stands in the way, told at once."""

import tomllib
from pathlib import Path

import pytest

from tri_serve.errors import LOCAL_PARTS, MissingExtraError, ResourceError, TriServeError
from tri_serve.fleet.problems import Problems


def test_one_command_is_told_for_all_optional_parts_that_are_missing() -> None:
    problems = Problems()
    errors = [
        MissingExtraError("gateway", "the gateway"),
        ResourceError("port 8000 is taken", hint="choose another"),
        MissingExtraError("ray", "the Ray supervisor", otherwise="run without it: --supervisor process"),
        MissingExtraError("checkpoint", "making the tiny checkpoint"),
    ]
    problems.found = list(errors)
    with pytest.raises(TriServeError) as refused:
        problems.raise_any()
    text = refused.value.message
    assert text.count("pip install 'tri-serve[local]'") == text.count("pip install") == 1
    assert all(error.message in text for error in errors)
    lines = text.splitlines()
    assert lines[4] == "    hint: pip install 'tri-serve[local]', or run without it: --supervisor process"
    assert lines[-1] == "    hint: choose another"
    assert refused.value.exit_code == MissingExtraError.exit_code


def test_the_extra_that_is_named_brings_each_part_that_it_is_named_for() -> None:
    project = Path(__file__).parents[3] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    (local,) = extras["local"]
    assert set(local.removeprefix("tri-serve[").removesuffix("]").split(",")) == LOCAL_PARTS
    for extra in extras:
        named = "local" if extra in LOCAL_PARTS else extra
        assert MissingExtraError(extra, "a test").hint == f"pip install 'tri-serve[{named}]'"
