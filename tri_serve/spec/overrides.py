"""The two layers above the files: variables TRI_SERVE_SECTION__KEY, and --set and --set-string.

A variable belongs to the spec exactly if two underscores in a row follow its prefix somewhere
(TRI_SERVE_GATEWAY__PORT). Variables of options (TRI_SERVE_UP_FOREGROUND), other names of ours
(TRI_SERVE_API_KEYS) and what Kubernetes injects for a Service (TRI_SERVE_GATEWAY_PORT=tcp://...) have single
ones, so none of them can be taken for a key of the spec, and a mistyped section is still noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tri_serve.errors import SpecError, UsageError
from tri_serve.spec.document import DocumentReader
from tri_serve.spec.keys import VARIABLE_PREFIX, VARIABLE_SEPARATOR, catalogue
from tri_serve.spec.origin import Origin
from tri_serve.spec.tree import Node, Scalar, Section, nest, replaced_origin


def variables_layer(environ: Mapping[str, str]) -> Iterator[Section]:
    """One tree for each variable of the spec, sorted by name. An empty value says nothing."""
    for name in sorted(environ):
        rest = name.removeprefix(VARIABLE_PREFIX)
        if rest == name or VARIABLE_SEPARATOR not in rest or environ[name] == "":
            continue
        origin = Origin("variable", name)
        path = _variable_path(rest)
        if not all(path):
            raise SpecError(
                f"{name}: no key has this name; write TRI_SERVE_SECTION__KEY, two underscores between levels",
                source=name,
            )
        yield nest(path, _parse(environ[name], path, origin), origin)


def _variable_path(rest: str) -> tuple[str, ...]:
    parts = rest.split(VARIABLE_SEPARATOR)
    path = tuple(part.lower() for part in parts)
    if path[:2] == ("engine", "env") and len(parts) > 2:
        # The engine's variables keep their case, and may hold two underscores themselves.
        return (*path[:2], VARIABLE_SEPARATOR.join(parts[2:]))
    return path


def sets_layer(sets: Sequence[str], set_strings: Sequence[str]) -> Iterator[Section]:
    """One tree for each flag: first every --set in order, then every --set-string."""
    for flag, assignments in (("--set", sets), ("--set-string", set_strings)):
        for assignment in assignments:
            dotted, equals, text = assignment.partition("=")
            path = tuple(dotted.strip().split("."))
            if not equals or not all(path):
                # Not quoted back whole: what follows may be a secret.
                raise UsageError(f"{flag} {dotted}: takes KEY=VALUE, such as gateway.port=8001")
            origin = Origin("flag", flag)
            node = (
                Scalar(text, text, origin, quoted=True)
                if flag == "--set-string"
                else _parse(text, path, origin)
            )
            yield nest(path, node, origin)


def _parse(text: str, path: tuple[str, ...], origin: Origin) -> Node:
    """VALUE as YAML. Where only text can be meant, a number or a boolean stays the text it was written as."""
    key = catalogue().get(path)
    text_only = key.takes_only_text if key else path[:2] == ("engine", "env") and len(path) == 3
    as_text = Scalar(text, text, origin, quoted=True)
    place = Origin(origin.kind, f"{origin.name} {'.'.join(path)}" if origin.kind == "flag" else origin.name)
    reader = DocumentReader(text, place=place)
    try:
        node = reader.read()
    except SpecError:
        if text_only:
            return as_text
        raise
    if text_only and not (isinstance(node, Scalar) and (isinstance(node.value, str) or node.value is None)):
        return as_text
    if reader.mistakes:
        _, where, words = reader.mistakes[0]
        raise SpecError(f"{place}: {where}: {words}", source=origin.name)
    return replaced_origin(node, origin) if node is not None else as_text
