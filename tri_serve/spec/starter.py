"""The file that ``tri-serve init`` writes: every key with its meaning, none of them set."""

from __future__ import annotations

import json
import textwrap

from tri_serve.spec.keys import Key, catalogue, variable_name
from tri_serve.spec.preset import Preset
from tri_serve.spec.tree import Items, Scalar, find, plain

_WIDTH = 100


def starter_file(preset: Preset) -> str:
    """A commented ``tri-serve.yaml`` that builds on ``preset``, loads as it stands, and means the same.

    Keys stand commented out with the value they have; what the preset leaves to its user is not.
    """
    lines = [
        "# What tri-serve serves, and how. `tri-serve up` reads this file, and `tri-serve config show --origin`",
        "# shows what comes of it. A key behind # stands here with the value that it has anyway: to change it,",
        "# take the # away.",
        "",
        *(line for note in preset.notes for line in _comment(f"Note: {note}", 0)),
        *([""] if preset.notes else []),
        *_comment(preset.summary + ".", 0),
        f"preset: {preset.name}",
    ]
    choice: Key | None = None  # what takes a value or keys, while its keys are written
    for key in catalogue().values():
        depth = len(key.path) - 1
        if depth == 0:
            lines.append("")
        if choice is not None and key.path[:-1] == choice.path:
            lines += _alternative(key, depth)
            continue
        choice = key if key.has_keys and not key.is_section else None
        lines += _comment(key.description, depth)
        lines.append(_line(key, preset, depth))
        if choice is not None:
            lines += _comment("Or, in place of that value:", depth)
            lines.append(f"{'  ' * depth}#   {key.path[-1]}:")
    lines += [
        "",
        f"# A variable such as {variable_name(('gateway', 'port'))} overrides what stands here.",
    ]
    return "\n".join(lines) + "\n"


def _comment(text: str, depth: int) -> list[str]:
    indent = "  " * depth
    wrapped = textwrap.wrap(text.replace("``", "`"), _WIDTH - len(indent) - 2, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in wrapped]


def _alternative(key: Key, depth: int) -> list[str]:
    """A key that excludes the value written above it: comment through and through."""
    indent, inner = "  " * (depth - 1), "  "
    value = yaml_word(key.default) if not key.required else f" # yours to give: {key.allowed}"
    described = (f"{indent}#   {inner}{line.lstrip()}" for line in _comment(key.description, depth + 2))
    return [*described, f"{indent}#   {inner}{key.path[-1]}: {value}"]


def _line(key: Key, preset: Preset, depth: int) -> str:
    indent = "  " * depth
    if key.is_section:
        return f"{indent}{key.path[-1]}:"
    if key.dotted in preset.needs:
        return f"{indent}{key.path[-1]}: /path/to/checkpoint  # yours to give: {preset.needs[key.dotted]}"
    return f"{indent}#{key.path[-1]}: {yaml_word(_value(key, preset))}"


def _value(key: Key, preset: Preset) -> object:
    said = find(preset.layer, key.path)
    return plain(said) if isinstance(said, (Scalar, Items)) else key.default


def yaml_word(value: object) -> str:
    """A value on one line of YAML. JSON is YAML; text stays bare where that reads the same."""
    if isinstance(value, str):
        import yaml

        return (
            str(yaml.safe_dump(value, default_flow_style=True, width=10_000))
            .removesuffix("\n...\n")
            .rstrip("\n")
        )
    if isinstance(value, tuple):
        value = list(value)
    return json.dumps(value, ensure_ascii=False)
