"""The JSON schema of ``tri-serve.yaml``, for editors: completion, descriptions, red lines while typing."""

from __future__ import annotations

from typing import Any

from tri_serve.spec.descriptions import DescribedSchema
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import preset_names

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def file_schema() -> dict[str, Any]:
    """The schema of one file.

    It differs from the spec's own in three ways: nothing is required (a preset or another file may say it),
    null is allowed everywhere (it resets a key), and ``preset`` names the base.
    """
    schema = Spec.model_json_schema(schema_generator=DescribedSchema)
    for model in (schema, *schema["$defs"].values()):
        model.pop("required", None)
        properties = model["properties"].items()
        model["properties"] = {name: _property(entry, schema["$defs"]) for name, entry in properties}
    for model in schema["$defs"].values():
        # A section whose keys are all commented out is null to YAML.
        model["type"] = ["object", "null"]
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


def _property(entry: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in entry:
        # A section's default is the sum of its keys' own; its description is what an editor should show.
        return {
            "description": definitions[entry["$ref"].rpartition("/")[2]]["description"],
            "$ref": entry["$ref"],
        }
    described = {"description": " ".join(entry["description"].split())} if "description" in entry else {}
    return described | _nullable(
        {name: value for name, value in entry.items() if name not in ("title", "description")}
    )


def _nullable(entry: dict[str, Any]) -> dict[str, Any]:
    if "oneOf" in entry:
        # Null would be one too many for oneOf where a form of its own takes it.
        entry = {"anyOf" if name == "oneOf" else name: value for name, value in entry.items()}
    if "anyOf" in entry:
        choices = [choice for choice in entry["anyOf"] if choice != {"type": "null"}]
        return {**entry, "anyOf": [*choices, {"type": "null"}]}
    widened = {**entry, "type": [entry["type"], "null"]}
    if "const" in entry:
        widened["enum"] = [widened.pop("const")]
    if "enum" in widened:
        widened["enum"] = [*widened["enum"], None]
    if "patternProperties" in entry:
        # Null takes one name out of the map.
        patterns = entry["patternProperties"].items()
        widened["patternProperties"] = {pattern: _nullable(value) for pattern, value in patterns}
        widened["additionalProperties"] = False
    return widened
