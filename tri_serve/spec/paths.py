"""Relative paths in a spec, made absolute: a release runs on when its shell has gone elsewhere.

A path in a file counts from that file's folder, as in compose files; one in a variable or flag from the
working directory, as with every program.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from tri_serve.spec.tree import Node, Scalar, Section, find, merge, nest

_ALWAYS_PATHS = (("gateway", "keys_file"),)
_MAYBE_PATHS = (("model", "source"), ("engine", "python"))
"""Also a hub repository (owner/name) or a program found on PATH: a path only if it says so."""


def absolute_paths(section: Section) -> Section:
    """The tree with ``~`` and relative paths resolved. Touches no disk but to expand ``~``."""
    for path in (*_ALWAYS_PATHS, *_MAYBE_PATHS):
        node = find(section, path)
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or not node.value:
            continue
        if path in _ALWAYS_PATHS or node.value.startswith(("./", "../", "~")) or node.value in (".", ".."):
            section = merge(section, nest(path, _resolved(node), node.origin))
    return section


def _resolved(node: Scalar) -> Node:
    assert isinstance(node.value, str)
    base = Path.cwd()
    if node.origin.kind == "file":
        base = base / Path(node.origin.name).parent
    path = Path(node.value)
    # `~nobody` stays as it is: whoever opens it says that it is not there.
    with contextlib.suppress(RuntimeError):
        path = path.expanduser()
    return replace(node, value=str((base / path).absolute()))
