"""YAML text → a tree that knows the line of every key, read strictly.

YAML 1.1 as PyYAML's safe loader resolves it, with these differences, each of which has bitten users of other
tools: a key may stand once; keys are text as written (``NO:`` is not ``False:``); numbers with a leading zero
or in base 60 (``010``, ``22:30``) and dates are text, since nobody means octal, sexagesimal or a date here;
anchors, aliases and tags are refused. Size, depth and number of values are bounded, so that no file can keep
us busy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.nodes import ScalarNode

from tri_serve.errors import SpecError
from tri_serve.spec.origin import Origin
from tri_serve.spec.tree import Items, Node, Scalar, Section

MAX_BYTES = 1_048_576
MAX_DEPTH = 16
"""The spec itself is four levels deep."""
MAX_VALUES = 20_000

_SURPRISING = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
"""What YAML 1.1 reads as octal or base 60."""


class DocumentReader:
    """Reads one document. ``mistakes`` collects what is wrong but does not stop the reading."""

    def __init__(self, text: str, *, place: Origin) -> None:
        self._text = text
        self._place = place
        self._values = 0
        # libyaml is some ten times faster; wheels of PyYAML have it, builds from source may not.
        self._loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._resolver = yaml.SafeLoader("")
        self.mistakes: list[tuple[Origin, str, str]] = []

    def read(self) -> Node | None:
        """The document's top node; None if there is nothing in it.

        Raises SpecError for text that is not YAML, or is outside the bounds of this module.
        """
        events = self._events()
        top: Node | None = None
        for event in events:
            if isinstance(event, DocumentStartEvent):
                if top is not None:
                    raise self._error("a second document begins here; a spec is one document", event)
                start = next(events)
                # A document of comments alone parses as one empty scalar.
                empty = isinstance(start, ScalarEvent) and start.value == "" and start.implicit[0]
                top = Section({}, self._origin(start)) if empty else self._node(start, events, (), 0)
        return top

    def _events(self) -> Iterator[Event]:
        try:
            yield from yaml.parse(self._text, Loader=self._loader_class)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = ", ".join(part for part in (error.problem, error.context) if part)
            tab = mark is not None and "\t" in self._line_of(mark.line)[: mark.column + 1]
            if tab or "'\\t'" in words:
                words = "a tab; YAML is indented with spaces"
            raise SpecError(
                f"{self._at(mark.line + 1 if mark else None)}: not valid YAML: {words}",
                source=self._place.name,
            ) from error
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, int(error.position)) + 1
            raise SpecError(
                f"{self._at(line)}: not valid YAML: the character U+{error.character:04X} is not allowed",
                source=self._place.name,
            ) from error

    def _node(self, event: Event, events: Iterator[Event], path: tuple[str, ...], depth: int) -> Node:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(f"more than {MAX_VALUES} values", event)
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._error("anchors and aliases are not taken; write the value out", event)
        if isinstance(event, ScalarEvent):
            return self._scalar(event)
        if not isinstance(event, CollectionStartEvent) or depth >= MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels", event)
        if event.tag is not None:
            raise self._error(f"the tag {event.tag} is not taken", event)
        if isinstance(event, SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(event := next(events), SequenceEndEvent):
                items.append(self._node(event, events, path, depth + 1))
            return Items(tuple(items), self._origin(event))
        assert isinstance(event, MappingStartEvent)
        return self._section(event, events, path, depth)

    def _section(self, start: Event, events: Iterator[Event], path: tuple[str, ...], depth: int) -> Section:
        children: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                raise self._error("a key must be plain text", event)
            key, origin = event.value, self._origin(event)
            node = self._node(next(events), events, (*path, key), depth + 1)
            if key in children:
                self.mistakes.append(
                    (origin, ".".join((*path, key)), f"stands twice; it is on line {lines[key]} already")
                )
                continue
            children[key] = _placed(node, origin)
            lines[key] = origin.line or 0
        return Section(children, self._origin(start))

    def _scalar(self, event: ScalarEvent) -> Scalar:
        if event.tag is not None:
            raise self._error(f"the tag {event.tag} is not taken", event)
        if "\0" in event.value:
            # Neither a path nor an argument nor a variable can hold one.
            raise self._error("a NUL character is not taken", event)
        # A plain scalar's style is None from PyYAML's own parser and "" from libyaml.
        quoted = bool(event.style)
        return Scalar(self._value(event, quoted), event.value, self._origin(event), quoted)

    def _value(self, event: ScalarEvent, quoted: bool) -> str | int | float | bool | None:
        text: str = event.value
        # The stubs of PyYAML leave this one untyped.
        tag = str(self._resolver.resolve(ScalarNode, text, event.implicit))  # type: ignore[no-untyped-call]
        if quoted or _SURPRISING.fullmatch(text):
            return text
        try:
            return self._constructed(tag.rpartition(":")[2], ScalarNode(tag, text))
        except ValueError:
            # PyYAML takes `0x_` and `._` for numbers and then fails; Python bounds the digits of a number.
            return text

    def _constructed(self, kind: str, node: ScalarNode) -> str | int | float | bool | None:
        match kind:
            case "int":
                return int(self._resolver.construct_yaml_int(node))
            case "float":
                number = float(self._resolver.construct_yaml_float(node))
                return number if math.isfinite(number) else str(node.value)
            case "bool":
                return bool(self._resolver.construct_yaml_bool(node))
            case "null":
                return None
            case _:
                return str(node.value)

    def _origin(self, event: Event) -> Origin:
        if self._place.kind not in ("file", "preset"):
            return self._place
        return Origin(self._place.kind, self._place.name, _line(event))

    def _line_of(self, index: int) -> str:
        lines = self._text.splitlines()
        return lines[index] if index < len(lines) else ""

    def _at(self, line: int | None) -> str:
        return (
            f"{self._place}:{line}" if line and self._place.kind in ("file", "preset") else str(self._place)
        )

    def _error(self, words: str, event: Event) -> SpecError:
        return SpecError(f"{self._at(_line(event))}: {words}", source=self._place.name)


def _line(event: Event) -> int | None:
    return event.start_mark.line + 1 if event.start_mark else None


def _placed(node: Node, origin: Origin) -> Node:
    """The node, placed on its key's line: that is the line a reader looks for."""
    if isinstance(node, Scalar):
        return Scalar(node.value, node.text, origin, node.quoted)
    if isinstance(node, Items):
        return Items(node.items, origin)
    return Section(node.children, origin)


def read_text(path: Path) -> str:
    """The text of a spec file. Raises SpecError with one line for whatever keeps it from being read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise SpecError(f"{path}: a directory, not a spec file", source=str(path)) from error
    except OSError as error:
        hint = "tri-serve init writes one" if isinstance(error, FileNotFoundError) else None
        raise SpecError(f"{path}: {error.strerror or error}", hint=hint, source=str(path)) from error
    if len(data) > MAX_BYTES:
        raise SpecError(f"{path}: larger than {MAX_BYTES // 1024} KiB; not a spec file", source=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x})", source=str(path)
        ) from error
