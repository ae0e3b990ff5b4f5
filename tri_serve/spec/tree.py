"""A spec before it is typed: values that still know their origin, and how one layer overrides another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tri_serve.spec.origin import Origin


@dataclass(frozen=True)
class Scalar:
    """One value. ``text`` is how it was written; ``quoted`` whether it stood in quotes."""

    value: str | int | float | bool | None
    text: str
    origin: Origin
    quoted: bool = False


@dataclass(frozen=True)
class Items:
    """A list. Lists are replaced as a whole, never merged."""

    items: tuple[Node, ...]
    origin: Origin


@dataclass(frozen=True)
class Section:
    """Keys and what is below them. Sections merge key by key. ``origin`` is where its own key stands."""

    children: Mapping[str, Node]
    origin: Origin


Node: TypeAlias = Scalar | Items | Section
Value: TypeAlias = "str | int | float | bool | tuple[Value, ...] | dict[str, Value] | None"


def is_null(node: Node) -> bool:
    """Whether the node is YAML's null, which takes back what lower layers said."""
    return isinstance(node, Scalar) and node.value is None


def merge(base: Section, over: Section) -> Section:
    """``over`` on top of ``base``. A null stays in the tree: it hides what is below it from every layer."""
    children = dict(base.children)
    for key, node in over.children.items():
        below = children.get(key)
        if isinstance(node, Section) and isinstance(below, Section):
            children[key] = merge(below, node)
        else:
            children[key] = node
    return Section(children, over.origin if over.children else base.origin)


def without_nulls(section: Section) -> Section:
    """The tree that remains when every key reset with null is gone."""
    children: dict[str, Node] = {}
    for key, node in section.children.items():
        if is_null(node):
            continue
        children[key] = without_nulls(node) if isinstance(node, Section) else node
    return Section(children, section.origin)


def plain(node: Node) -> Value:
    """The bare value, with tuples for lists: strict models take no list for a tuple."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Items):
        return tuple(plain(item) for item in node.items)
    return {key: plain(child) for key, child in node.children.items()}


def find(section: Section, path: tuple[str | int, ...]) -> Node | None:
    """The node at ``path``, or None."""
    node: Node = section
    for part in path:
        if isinstance(node, Section) and isinstance(part, str) and part in node.children:
            node = node.children[part]
        elif isinstance(node, Items) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            return None
    return node


def leaves(section: Section, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Scalar | Items]]:
    """Every value with its path, lists as one value."""
    for key, node in section.children.items():
        if isinstance(node, Section):
            yield from leaves(node, (*path, key))
        else:
            yield (*path, key), node


def nest(path: tuple[str, ...], node: Node, origin: Origin) -> Section:
    """A tree with ``node`` at ``path`` (at least one part) and nothing else."""
    for key in reversed(path[1:]):
        node = Section({key: node}, origin)
    return Section({path[0]: node}, origin)


def replaced_origin(node: Node, origin: Origin) -> Node:
    """The same values, all said by ``origin``."""
    if isinstance(node, Section):
        return Section({key: replaced_origin(child, origin) for key, child in node.children.items()}, origin)
    if isinstance(node, Scalar):
        return Scalar(node.value, node.text, origin, node.quoted)
    return Items(tuple(replaced_origin(item, origin) for item in node.items), origin)
