"""The schema for editors, the starter file, and the generated reference agree with the models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tri_serve.spec.keys import catalogue
from tri_serve.spec.load import load_spec
from tri_serve.spec.preset import load_preset, preset_names
from tri_serve.spec.schema import file_schema
from tri_serve.spec.starter import starter_file

REPOSITORY = Path(__file__).resolve().parents[3]


def schema_at(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    node = schema
    for name in path:
        node = next(
            choice for choice in node.get("anyOf", [node]) if "$ref" in choice or "properties" in choice
        )
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        node = node["properties"][name]
    return node


def takes_null(schema: dict[str, Any], entry: dict[str, Any]) -> bool:
    if "$ref" in entry:
        entry = schema["$defs"][entry["$ref"].rpartition("/")[2]]
    return {"type": "null"} in entry.get("anyOf", ()) or "null" in entry.get("type", ())


def test_the_schema_knows_every_key_with_a_description_takes_null_and_requires_none() -> None:
    schema = file_schema()
    assert schema["$schema"].startswith("https://json-schema.org/")
    for path, key in catalogue().items():
        entry = schema_at(schema, path)
        assert entry["description"], key.dotted
        assert takes_null(schema, entry), key.dotted
    for model in (schema, *schema["$defs"].values()):
        assert "required" not in model
        assert model["additionalProperties"] is False


def test_the_schema_completes_presets_and_takes_the_forms_that_loading_takes() -> None:
    schema = file_schema()
    assert set(preset_names()) < set(schema["properties"]["preset"]["enum"])
    kinds = {choice.get("type") for choice in schema_at(schema, ("model", "max_model_len"))["anyOf"]}
    assert kinds == {"integer", "string", "null"}
    port = schema_at(schema, ("gateway", "port"))
    assert (port["type"], port["minimum"], port["maximum"], port["default"]) == (
        ["integer", "null"],
        1,
        65535,
        8000,
    )
    assert schema_at(schema, ("engine", "kind"))["enum"] == ["vllm", "sglang", None]


def test_every_key_is_described() -> None:
    assert [key.dotted for key in catalogue().values() if not key.description] == []


@pytest.mark.parametrize("name", preset_names())
def test_a_starter_file_loads_and_means_its_preset(tmp_path: Path, name: str) -> None:
    preset = load_preset(name)
    path = tmp_path / "tri-serve.yaml"
    path.write_text(starter_file(preset), encoding="utf-8")
    loaded = load_spec(None, [path], {})
    needs = [f"{key}=/path/to/checkpoint" for key in preset.needs]
    assert loaded.spec == load_spec(name, [], {}, needs).spec


@pytest.mark.parametrize("name", preset_names())
def test_a_starter_file_still_means_the_same_when_every_key_is_uncommented(tmp_path: Path, name: str) -> None:
    preset = load_preset(name)
    # Keys follow # at once, prose after a space.
    lines = [
        line.replace("#", "", 1) if line.lstrip().startswith("#") and line.lstrip()[1:2].isalpha() else line
        for line in starter_file(preset).splitlines()
    ]
    path = tmp_path / "tri-serve.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(stated["gateway"]["timeouts"]) == [
        key.path[-1] for key in catalogue().values() if key.path[:-1] == ("gateway", "timeouts")
    ]
    assert stated["gateway"]["port"] == 8000
    needs = [f"{key}=/path/to/checkpoint" for key in preset.needs]
    assert load_spec(None, [path], {}).spec == load_spec(name, [], {}, needs).spec


def test_the_committed_reference_is_what_the_code_says() -> None:
    script = REPOSITORY / "docs" / "generate_reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
