"""What each key of a scenario takes, found in the models' JSON schema by the key's place in a file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from tri_serve.load.scenario.models import Scenario
from tri_serve.spec.fields import DURATION_PATTERN
from tri_serve.spec.keys import describe_schema
from tri_serve.spec.tree import Items, Node, Scalar, Section

Path = tuple[str | int, ...]
Entry = Mapping[str, Any]


@lru_cache(maxsize=1)
def _root() -> Entry:
    return Scenario.model_json_schema()


def entry_at(path: Sequence[str | int], tree: Node) -> Entry | None:
    """The schema of what stands at ``path``; ``tree`` says by its ``kind`` which form each section has.

    None where the models have no such key.
    """
    entry: Entry | None = _root()
    node: Node | None = tree
    for part in path:
        entry = _form(entry, node) if entry is not None else None
        if entry is None:
            return None
        entry = entry.get("items") if isinstance(part, int) else entry.get("properties", {}).get(part)
        node = child(node, part)
    return _form(entry, node, keep_choices=True) if entry is not None else None


def child(node: Node | None, part: str | int) -> Node | None:
    """What stands below ``node`` under a key or a number; None if nothing does."""
    if isinstance(node, Section) and isinstance(part, str):
        return node.children.get(part)
    if isinstance(node, Items) and isinstance(part, int) and part < len(node.items):
        return node.items[part]
    return None


def _form(entry: Entry, node: Node | None, *, keep_choices: bool = False) -> Entry | None:
    """The entry with its reference followed, and of several forms the one that ``node`` has."""
    if "$ref" in entry:
        return _form(_definition(entry["$ref"]), node)
    if "discriminator" in entry:
        kind = child(node, "kind")
        mapping: Mapping[str, str] = entry["discriminator"]["mapping"]
        if isinstance(kind, Scalar) and kind.value in mapping:
            return _definition(mapping[str(kind.value)])
        return entry if keep_choices else None
    if "anyOf" in entry and not keep_choices:
        forms = [_form(choice, node) for choice in entry["anyOf"]]
        return next((form for form in forms if form and ("properties" in form or "items" in form)), None)
    return entry


def _definition(reference: str) -> Entry:
    found: Entry = _root()["$defs"][reference.rpartition("/")[2]]
    return found


def keys_at(path: Sequence[str | int], tree: Node) -> tuple[str, ...]:
    """The keys that the section at ``path`` may have."""
    entry = entry_at(path, tree)
    form = _form(entry, tree) if entry is not None else None
    return tuple(form.get("properties", ())) if form is not None else ()


def nearest(key: str, allowed: Sequence[str]) -> str | None:
    """The allowed key that was probably meant."""
    close = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    return close[0] if close else None


def is_duration(entry: Entry | None) -> bool:
    """Whether the key takes a time."""
    return entry is not None and any(
        choice.get("pattern") == DURATION_PATTERN for choice in entry.get("anyOf", ())
    )


def allowed_words(entry: Entry | None) -> str:
    """What a key takes, in words; empty where the models cannot say it."""
    if entry is None:
        return ""
    if "discriminator" in entry:
        return f"a section with kind: one of {', '.join(entry['discriminator']['mapping'])}"
    if "anyOf" in entry:
        return " or ".join(filter(None, (allowed_words(_form(choice, None)) for choice in entry["anyOf"])))
    if entry.get("type") == "array":
        return "a list"
    if "properties" in entry:
        return f"a section with the keys {', '.join(entry['properties'])}"
    if entry.get("type") == "object":
        names = entry.get("propertyNames", {}).get("enum", ())
        return f"a section with the keys {', '.join(names)}"
    return describe_schema(entry)
