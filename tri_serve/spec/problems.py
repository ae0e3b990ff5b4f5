"""What is wrong with a spec, as lines that name the place, the key, what was found and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tri_serve.errors import SpecError
from tri_serve.spec.fields import ABOUT_KEY
from tri_serve.spec.keys import Key, catalogue, nearest, variable_name
from tri_serve.spec.origin import DEFAULT, Origin
from tri_serve.spec.secrets import is_secret_path, mask_urls
from tri_serve.spec.tree import Items, Node, Scalar, Section, find, is_null

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_LONGEST_QUOTE = 60
_LONGEST_LIST = 20
_NUMBER_OR_BOOLEAN = re.compile(r"[-+]?\d+(\.\d+)?|true|false")


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, which key it is about, and what to say."""

    origin: Origin
    key: str
    words: str

    def __str__(self) -> str:
        # A preset's own lines mean nothing to its user.
        place = "" if self.origin is DEFAULT else f"{self.origin}: "
        subject = f"{self.key}: " if self.key else ""
        return f"{place}{subject}{self.words}"


def error_of(problems: Iterable[Problem], *, hint: str | None = None) -> SpecError:
    """One error for all problems: one line each, in the order of the places they stand in."""
    ordered = sorted(problems, key=lambda problem: (problem.origin.name, problem.origin.line or 0))
    lines = tuple(dict.fromkeys(str(problem) for problem in ordered))
    shown = lines[:_LONGEST_LIST]
    if len(lines) > len(shown):
        shown = (*shown, f"and {len(lines) - len(shown)} more")
    message = lines[0] if len(lines) == 1 else "\n  ".join((f"the spec has {len(lines)} mistakes:", *shown))
    return SpecError(message, hint=hint, source=ordered[0].origin.name or None, problems=lines)


def structure_problems(layer: Section) -> Iterator[Problem]:
    """Unknown keys of one layer, and values where a section belongs. Judged before merging: a higher layer
    can override a wrong value, but a key that does not exist is a mistake wherever it stands."""
    yield from _structure(layer, ())


def _structure(section: Section, path: tuple[str, ...]) -> Iterator[Problem]:
    known = catalogue()
    for name, node in section.children.items():
        here = (*path, name)
        key = known.get(here)
        if key is None:
            yield Problem(node.origin, ".".join(here), _unknown(here, node.origin))
        elif key.has_keys and isinstance(node, Section):
            yield from _structure(node, here)
        elif key.is_section and not is_null(node):
            yield Problem(node.origin, key.dotted, f"found {describe(node)}; takes {key.allowed}")


def known_part(section: Section, path: tuple[str, ...] = ()) -> Section:
    """The layer without what ``structure_problems`` complains about, so that the rest can be judged too."""
    known = catalogue()
    children: dict[str, Node] = {}
    for name, node in section.children.items():
        key = known.get((*path, name))
        if key is None or (key.is_section and isinstance(node, Items)):
            continue
        if key.has_keys and isinstance(node, Section):
            children[name] = known_part(node, key.path)
        elif not key.is_section or is_null(node):
            children[name] = node
    return Section(children, section.origin)


def _unknown(path: tuple[str, ...], origin: Origin) -> str:
    close = nearest(path)
    if close is None:
        allowed = ", ".join(key[-1] for key in catalogue() if key[:-1] == path[:-1])
        return f"unknown key; allowed here: {allowed}" if allowed else "unknown key"
    if origin.kind == "variable":
        return f"unknown key; the nearest is {variable_name(close)}"
    if "." in path[-1]:
        return f"unknown key; write {close[-1]} in the section {'.'.join(close[:-1])}"
    return f"unknown key; the nearest is {'.'.join(close)}"


def validation_problems(error: ValidationError, merged: Section) -> Iterator[Problem]:
    """pydantic's findings on the merged tree, in our words and with the places the values came from."""
    for details in error.errors(include_url=False, include_context=True, include_input=False):
        yield _of_details(details, merged)


def _of_details(details: ErrorDetails, merged: Section) -> Problem:
    # Validators of map keys and unions add parts such as '[key]' that are no keys of ours.
    path = tuple(part for part in details["loc"] if not (isinstance(part, str) and part.startswith("[")))
    while path and find(merged, path) is None and details["type"] != "missing":
        path = path[:-1]
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    node = find(merged, path)
    names = tuple(part for part in path if isinstance(part, str))
    key = catalogue().get(names)
    origin = node.origin if node is not None and path else DEFAULT
    if details["type"] == "string_pattern_mismatch" and details["loc"][-1] == "[key]":
        return Problem(origin, dotted, "not a variable's name: letters, digits and _, no digit first")
    if details["type"] == "missing":
        allowed = f"; takes {key.allowed}" if key else ""
        return Problem(DEFAULT, dotted, f"required, and nothing gives it{allowed}")
    if details["type"] == ABOUT_KEY:
        # Found on the whole section; the place to look at is the key that it names.
        inner = (*names, *details["ctx"]["key"].split("."))
        said = find(merged, inner)
        return Problem(said.origin if said else origin, ".".join(inner), details["msg"])
    if details["type"] == "value_error":
        reason = str(details["ctx"]["error"])
        found = f"found {describe(node)}: " if isinstance(node, Scalar) else ""
        return Problem(origin, dotted, found + reason)
    if node is None:
        return Problem(origin, dotted, details["msg"])
    found = "a secret that is not text" if is_secret_path(names) else describe(node)
    if len(names) > len(path):
        key = None
    return Problem(
        origin, dotted, f"found {found}; takes {_allowed(key, names, details)}{_quoting(node, key, names)}"
    )


def _allowed(key: Key | None, names: tuple[str, ...], details: ErrorDetails) -> str:
    if details["type"] in ("string_type", "string_too_short") and (key is None or key.takes_only_text):
        return "text" if details["type"] == "string_type" else "text that is not empty"
    if key is not None:
        return key.allowed
    return details["msg"]


def _quoting(node: Node, key: Key | None, names: tuple[str, ...]) -> str:
    if not isinstance(node, Scalar) or node.origin.kind not in ("file", "preset"):
        return ""
    text_wanted = key.takes_only_text if key else names[:2] == ("engine", "env")
    if text_wanted and not isinstance(node.value, str) and node.value is not None:
        return "; put it in quotes" if is_secret_path(names) else f'; put it in quotes: "{node.text}"'
    if node.quoted and key is not None and not text_wanted and _NUMBER_OR_BOOLEAN.fullmatch(node.text):
        return "; take the quotes away"
    return ""


def describe(node: Node | None) -> str:
    """What was found, in words."""
    if isinstance(node, Section):
        return f"a section ({', '.join(node.children) or 'empty'})"
    if isinstance(node, Items):
        return f"a list of {len(node.items)}"
    if node is None or node.value is None:
        return "null"
    if isinstance(node.value, bool):
        word = "true" if node.value else "false"
        return word if node.text.lower() == word else f"{node.text} (which YAML reads as {word})"
    if isinstance(node.value, str):
        text = mask_urls(node.text)
        text = text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"
        return f"the text {text!r}"
    return f"the number {node.text}"
