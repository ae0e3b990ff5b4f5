"""The JSON schema of ``tri-serve.yaml``, for editors: completion, descriptions, red lines while typing."""

from __future__ import annotations

from typing import Any

from tri_serve.spec.models import Spec
from tri_serve.spec.preset import preset_names

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def file_schema() -> dict[str, Any]:
    """The schema of one file.

    It differs from the spec's own in three ways: nothing is required (a preset or another file may say it),
    null is allowed everywhere (it resets a key), and ``preset`` names the base.
    """
    schema = Spec.model_json_schema()
    for model in (schema, *schema["$defs"].values()):
        model.pop("required", None)
        properties = model["properties"].items()
        model["properties"] = {name: _nullable(entry, schema["$defs"]) for name, entry in properties}
    preset = {
        "description": "The preset that this file builds on; `tri-serve presets` lists them.",
        "enum": [*preset_names(), None],
    }
    return {
        "$schema": DIALECT,
        "title": "tri-serve.yaml",
        "description": "What tri-serve serves, with which engine, where, and behind which gateway.",
        "type": "object",
        "additionalProperties": False,
        "properties": {"preset": preset, **schema["properties"]},
        "$defs": schema["$defs"],
    }


def _nullable(entry: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        name: entry[name] for name in ("description", "default", "examples") if name in entry
    }
    if "$ref" in entry:
        # A section's default is the sum of its keys' own; editors show the section's description instead.
        described = {"description": definitions[entry["$ref"].rpartition("/")[2]]["description"]}
    if "description" in described:
        described["description"] = " ".join(described["description"].split())
    choice = {
        name: value
        for name, value in entry.items()
        if name not in ("description", "default", "examples", "title")
    }
    choices = choice.get("anyOf", [choice])
    if {"type": "null"} not in choices:
        choices = [*choices, {"type": "null"}]
    return {**described, "anyOf": choices}
