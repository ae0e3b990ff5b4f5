"""A spec as flat, printable values, and what changed between two specs."""

from __future__ import annotations

from dataclasses import dataclass

from tri_serve.spec.models import Spec
from tri_serve.spec.secrets import is_secret_path, mask_value


@dataclass(frozen=True)
class Change:
    """One key whose value differs. None stands for "not set". Secrets are masked on both sides."""

    key: str
    old: object
    new: object

    def __str__(self) -> str:
        if self.old == self.new:
            return f"{self.key}: changed (not shown)"
        return f"{self.key}: {_word(self.old)} -> {_word(self.new)}"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(str(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_word(item)}' for name, item in value.items())}}}"
    return "not set" if value is None else str(value)


def flat_values(spec: Spec) -> dict[tuple[str, ...], object]:
    """Every leaf key with its true value, in the order of the models; the engine's variables one by one.

    Holds secrets: what is shown goes through ``printable`` or ``difference``.
    """
    flat: dict[tuple[str, ...], object] = {}
    _flatten(spec.model_dump(), (), flat)
    return flat


def _flatten(values: dict[str, object], path: tuple[str, ...], into: dict[tuple[str, ...], object]) -> None:
    for name, value in values.items():
        if isinstance(value, dict) and (value or path == ()):
            _flatten(value, (*path, name), into)
        else:
            into[(*path, name)] = value


def printable(spec: Spec) -> dict[str, object]:
    """The spec as nested plain data in which no secret is left, for YAML and JSON."""
    tree: dict[str, object] = {}
    for path, value in flat_values(spec).items():
        below = tree
        for name in path[:-1]:
            child = below.setdefault(name, {})
            assert isinstance(child, dict)
            below = child
        shown = mask_value(path, value)
        below[path[-1]] = list(shown) if isinstance(shown, tuple) else shown
    return tree


def difference(old: Spec, new: Spec) -> tuple[Change, ...]:
    """The keys whose values differ, in the order of the models. Empty: the specs are equal."""
    before, after = flat_values(old), flat_values(new)
    _fold(before, after)
    _fold(after, before)
    changes: list[Change] = []
    for path in dict.fromkeys((*before, *after)):
        was, is_now = before.get(path), after.get(path)
        # An empty mapping is shown only while nothing is in it, so its own coming and going is no change.
        if was == is_now or {} in (was, is_now):
            continue
        changes.append(Change(".".join(path), _shown(path, was), _shown(path, is_now)))
    return tuple(changes)


def _fold(values: dict[tuple[str, ...], object], others: dict[tuple[str, ...], object]) -> None:
    """Where ``others`` have a plain value and ``values`` keys below it, the keys become one value."""
    for path in [path for path in values if not isinstance(others.get(path[:-1], {}), dict)]:
        folded = values.setdefault(path[:-1], {})
        assert isinstance(folded, dict)
        folded[path[-1]] = values.pop(path)


def _shown(path: tuple[str, ...], value: object) -> object:
    if value is None and is_secret_path(path):
        return None
    return mask_value(path, value)
