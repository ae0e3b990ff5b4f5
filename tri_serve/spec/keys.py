"""Every key of the spec with what it takes, in words: one source for errors, ``init`` and the reference."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, TypeGuard, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tri_serve.spec.fields import SpecModel
from tri_serve.spec.models import Spec

Path = tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """One key: ``path`` from the top, what it takes (in words) and its default.

    ``takes_only_text`` is true where no number or boolean could be meant; ``open`` where any name may stand
    below it (engine.env); ``has_keys`` where keys of ours may: in a section, and in what takes either a value
    or keys (fleet.replicas).
    """

    path: Path
    allowed: str
    required: bool
    default: object
    takes_only_text: bool
    is_section: bool
    has_keys: bool
    open: bool
    described: tuple[type[SpecModel], ...]
    """The model that has the key, and that of the keys below it where it is a section."""

    @cached_property
    def description(self) -> str:
        """What it is for, from the source when it is asked."""
        from tri_serve.spec.descriptions import field_docs

        model, *below = self.described
        text = field_docs(model).get(self.path[-1]) or (below[0].__doc__ if below else None) or ""
        return " ".join(text.split())

    @property
    def dotted(self) -> str:
        """``gateway.port``."""
        return ".".join(self.path)


VARIABLE_PREFIX = "TRI_SERVE_"
VARIABLE_SEPARATOR = "__"


def variable_name(path: Path) -> str:
    """The environment variable that overrides the key at ``path``: TRI_SERVE_GATEWAY__PORT."""
    return VARIABLE_PREFIX + VARIABLE_SEPARATOR.join(part.upper() for part in path)


@lru_cache(maxsize=1)
def catalogue() -> Mapping[Path, Key]:
    """Every key by its path, sections included, in the order of the models."""
    schema = Spec.model_json_schema()
    return {key.path: key for key in _keys(Spec, schema, schema, ())}


def _keys(
    model: type[SpecModel], schema: Mapping[str, Any], root: Mapping[str, Any], path: Path
) -> list[Key]:
    found: list[Key] = []
    for name, field in model.model_fields.items():
        entry = _resolved(schema["properties"][name], root)
        below, is_section = _section_model(field)
        found.append(
            Key(
                path=(*path, name),
                allowed=describe_schema(entry),
                required=field.is_required(),
                default=None if field.default is PydanticUndefined else field.default,
                takes_only_text=below is None and _kinds(entry) <= {"string", "null"},
                is_section=is_section,
                has_keys=below is not None,
                open="patternProperties" in entry or ("additionalProperties" in entry and below is None),
                described=(model, below) if is_section and below is not None else (model,),
            )
        )
        if below is not None:
            inner = next(form for form in (entry, *entry.get("anyOf", ())) if "properties" in form)
            found += _keys(below, inner, root, (*path, name))
    return found


def _resolved(entry: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with what its references name put in their place; ``oneOf`` is ``anyOf`` to a reader."""
    resolved = {name: value for name, value in entry.items() if name not in ("$ref", "oneOf")}
    if "$ref" in entry:
        resolved |= {**root["$defs"][entry["$ref"].rpartition("/")[2]], "default": entry.get("default")}
    if choices := entry.get("oneOf") or entry.get("anyOf"):
        resolved["anyOf"] = [_resolved(choice, root) for choice in choices]
    return resolved


def _section_model(field: FieldInfo) -> tuple[type[SpecModel] | None, bool]:
    """The model of the keys below the field, if it has any, and whether it takes nothing but such keys."""
    annotation = field.annotation
    if _is_model(annotation):
        return annotation, True
    forms = (get_args(form)[0] if get_origin(form) is Annotated else form for form in get_args(annotation))
    return next(filter(_is_model, forms), None), False


def _is_model(annotation: object) -> TypeGuard[type[SpecModel]]:
    return isinstance(annotation, type) and issubclass(annotation, SpecModel)


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    if "anyOf" in schema:
        return set[str]().union(*(_kinds(choice) for choice in schema["anyOf"]))
    return {schema["type"]} if "type" in schema else {"string"}


def describe_schema(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(describe_schema(choice) for choice in schema["anyOf"])
    if "const" in schema:
        return f"only {schema['const']}"
    if "enum" in schema:
        return f"one of {', '.join(str(value) for value in schema['enum'])}"
    match schema.get("type"):
        case "integer":
            return f"a whole number{_bounds(schema)}"
        case "number":
            return f"a number{_bounds(schema)}"
        case "boolean":
            return "true or false"
        case "string" if "examples" in schema:
            return f"text such as {', '.join(schema['examples'])}"
        case "string":
            pattern = f" that matches {schema['pattern']}" if "pattern" in schema else ""
            longest = f" of at most {schema['maxLength']} characters" if "maxLength" in schema else ""
            return f"text{longest}{pattern}"
        case "array":
            return "a list of text" + (", not empty" if schema.get("minItems") else "")
        case "object" if "properties" in schema:
            return f"a section with the keys {', '.join(schema['properties'])}"
        case "object":
            return "names with text values"
        case _:
            return "null"


def _bounds(schema: Mapping[str, Any]) -> str:
    low, above, high = (schema.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if above is not None and high is not None:
        return f" above {above}, up to {high}"
    return ""


def nearest(path: Path) -> Path | None:
    """The valid path that an unknown one was probably meant to be, or None."""
    known = catalogue()
    # `gateway.port:` written on one line.
    spelled = tuple(".".join(path).split("."))
    if spelled in known:
        return spelled
    siblings = [key for key in known if key[:-1] == path[:-1]]
    close = difflib.get_close_matches(path[-1], [key[-1] for key in siblings], n=1, cutoff=0.6)
    if close:
        return (*path[:-1], close[0])
    # `port:` under the wrong section.
    same_name = [key for key in known if key[-1] == path[-1] and not known[key].is_section]
    if len(same_name) == 1:
        return same_name[0]
    dotted = {".".join(key): key for key in known}
    close = difflib.get_close_matches(".".join(path), dotted, n=1, cutoff=0.75)
    return dotted[close[0]] if close else None
