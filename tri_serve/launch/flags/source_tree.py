"""Python sources that are read and never imported: what a name means in a module, found by its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tri_serve.errors import UsageError


@dataclass(frozen=True)
class Definition:
    """What a name stands for: a class, a function or an assigned value, in the module where it is defined."""

    module: Module
    node: ast.ClassDef | ast.FunctionDef | ast.expr


class SourceTree:
    """The modules below one folder: that of the unpacked package's top-level package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, Module] = {}

    def module(self, dotted: str) -> Module | None:
        """The module of that name; None if the tree has none."""
        if dotted not in self._modules:
            path = self.root.joinpath(*dotted.split("."))
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if not file.is_file():
                return None
            self._modules[dotted] = Module(self, dotted, file)
        return self._modules[dotted]

    def first_module(self, *dotted: str) -> Module:
        """The first that is there, of those names that a module has had. Raises UsageError if none is."""
        for name in dotted:
            if found := self.module(name):
                return found
        raise UsageError(f"{self.root}: no module {' or '.join(dotted)}; is it the right package?")


@dataclass(eq=False)
class Module:
    """One file."""

    tree: SourceTree
    name: str
    file: Path

    @cached_property
    def syntax(self) -> ast.Module:
        """The file, parsed."""
        return ast.parse(self.file.read_text(encoding="utf-8"), filename=str(self.file))

    @cached_property
    def _names(self) -> dict[str, Definition | tuple[str, str]]:
        """Name → its definition here, or where it is imported from (module, name)."""
        names: dict[str, Definition | tuple[str, str]] = {}
        for statement in _top_level(self.syntax.body):
            match statement:
                case ast.ClassDef() | ast.FunctionDef():
                    names[statement.name] = Definition(self, statement)
                case ast.Assign(targets=[ast.Name(name)]):
                    names[name] = Definition(self, statement.value)
                case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value):
                    names[name] = Definition(self, value)
                case ast.ImportFrom():
                    for alias in statement.names:
                        names[alias.asname or alias.name] = (self._imported_from(statement), alias.name)
        return names

    def _imported_from(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        package = self.name.split(".")
        up = statement.level - (self.file.name == "__init__.py")
        return ".".join([*package[: len(package) - up], *([statement.module] if statement.module else [])])

    def find(self, name: str) -> Definition | None:
        """What ``name`` stands for, followed through imports; None where the tree does not say."""
        found = self._names.get(name)
        if not isinstance(found, tuple):
            return found
        module = self.tree.module(found[0])
        if module is None or (module is self and found[1] == name):
            return None
        return module.find(found[1])

    def class_fields(self, cls: ast.ClassDef) -> Iterator[tuple[Module, ast.AnnAssign]]:
        """The annotated fields of a class in the order of a dataclass: those of its bases first."""
        for base in cls.bases:
            found = self.find(base.id) if isinstance(base, ast.Name) else None
            if found is not None and isinstance(found.node, ast.ClassDef):
                yield from found.module.class_fields(found.node)
        for statement in cls.body:
            if isinstance(statement, ast.AnnAssign):
                yield self, statement


def method(cls: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """A class's own method."""
    return next((s for s in cls.body if isinstance(s, ast.FunctionDef) and s.name == name), None)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module. Of ``if TYPE_CHECKING`` the part that runs comes last, so that it counts."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _top_level(statement.body)
            yield from _top_level(statement.orelse)
        elif isinstance(statement, ast.Try):
            yield from _top_level(statement.body)
        else:
            yield statement
