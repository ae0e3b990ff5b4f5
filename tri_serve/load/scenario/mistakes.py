"""What is wrong with a scenario, as lines that name the place, the key, what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tri_serve.errors import UsageError
from tri_serve.load.scenario.keys import Path, allowed_words, child, entry_at, keys_at, nearest
from tri_serve.spec.fields import ABOUT_KEY
from tri_serve.spec.origin import Origin
from tri_serve.spec.problems import Problem, describe
from tri_serve.spec.tree import Items, Node, Scalar, Section, find

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_LONGEST_LIST = 20


def scenario_error(problems: Sequence[Problem]) -> UsageError:
    """One error for all problems: one line each, in the order of the file."""
    ordered = sorted(problems, key=lambda problem: (problem.origin.name, problem.origin.line or 0))
    lines = tuple(dict.fromkeys(map(str, ordered)))
    shown = lines[:_LONGEST_LIST]
    if len(lines) > len(shown):
        shown = (*shown, f"and {len(lines) - len(shown)} more")
    if len(lines) == 1:
        return UsageError(lines[0])
    return UsageError("\n  ".join((f"the scenario has {len(lines)} mistakes:", *shown)))


def validation_problems(error: ValidationError, tree: Section, source: str) -> Iterator[Problem]:
    """pydantic's findings in our words, with the places that the values came from."""
    for details in error.errors(include_url=False, include_input=False):
        node = find(tree, _path(details, tree))
        if details["type"] == "too_short" and isinstance(node, Items) and node.items:
            continue  # none of the items passed, and each has a line of its own
        yield _of_details(details, tree, source)


def _of_details(details: ErrorDetails, tree: Section, source: str) -> Problem:
    path, missing = _path(details, tree), details["type"] == "missing"
    node = find(tree, path)
    section = find(tree, path[:-1]) if missing else node
    origin = section.origin if section is not None and path[:-1] else Origin("file", source)
    if node is not None and path:
        origin = node.origin
    key = dotted(path)
    if missing:
        allowed = allowed_words(entry_at(path, tree))
        return Problem(origin, key, "required, and not there" + (f"; takes {allowed}" if allowed else ""))
    match details["type"]:
        case "extra_forbidden":
            return Problem(origin, key, _unknown(path, tree))
        case "union_tag_not_found":
            return Problem(origin, f"{key}.kind", f"required, and not there; {_kinds(path, tree)}")
        case "union_tag_invalid":
            said = child(node, "kind")
            place = said.origin if said is not None else origin
            return Problem(place, f"{key}.kind", f"found {describe(said)}; {_kinds(path, tree)}")
        case kind if kind == ABOUT_KEY:
            inner = (*path, *details["ctx"]["key"].split("."))
            said = find(tree, inner)
            return Problem(said.origin if said is not None else origin, dotted(inner), details["msg"])
    allowed = allowed_words(entry_at(path, tree))
    if details["loc"][-1] == "[key]" or not allowed:
        above = allowed_words(entry_at(path[:-1], tree))
        return Problem(origin, key, f"unknown key; takes {above}" if above else details["msg"])
    quotes = (
        "; take the quotes away" if isinstance(node, Scalar) and node.quoted and "number" in allowed else ""
    )
    return Problem(origin, key, f"found {describe(node)}; takes {allowed}{quotes}")


def _path(details: ErrorDetails, tree: Section) -> Path:
    """The place in the file: pydantic names the form of each section too, which is no key."""
    path: list[str | int] = []
    node: Node | None = tree
    location = details["loc"]
    for number, part in enumerate(location):
        below = child(node, part)
        if below is not None:
            path.append(part)
            node = below
        elif number == len(location) - 1 and details["type"] == "missing":
            path.append(part)
    return tuple(path)


def dotted(path: Path) -> str:
    """``workload.parts[0].input``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _unknown(path: Path, tree: Section) -> str:
    allowed = keys_at(path[:-1], tree)
    close = nearest(str(path[-1]), allowed)
    if close is not None:
        return f"unknown key; the nearest is {close}"
    return f"unknown key; allowed here: {', '.join(allowed)}" if allowed else "unknown key"


def _kinds(path: Path, tree: Section) -> str:
    """The forms that the section at ``path`` can have."""
    return allowed_words(entry_at(path, tree)).replace("a section with kind: one of", "takes one of")
