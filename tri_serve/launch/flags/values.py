"""What a flag takes, told from the Python annotation that the engine derives it from."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tri_serve.launch.flags.source_tree import Module
from tri_serve.launch.flags.table import UNKNOWN


@dataclass(frozen=True)
class Value:
    """``kind``: switch (given or not), bool (with a --no- form), int, float, json, text; ``choices`` are what
    it takes if that is a closed list. ``many``: several values may follow; ``repeated``: the flag may be given
    several times; ``optional``: the value may be left out."""

    kind: str = "text"
    choices: tuple[str, ...] = ()
    many: bool = False
    repeated: bool = False
    optional: bool = False
    default: Any = UNKNOWN

    def with_default(self, default: Any) -> Value:
        """The same with another default."""
        return replace(self, default=default)


@dataclass(frozen=True)
class Hint:
    """One alternative of an annotation. ``name`` is a builtin's, ``Literal``, or that of the class."""

    name: str
    choices: tuple[Any, ...] = ()
    inner: ast.expr | None = None
    module: Module | None = None
    is_dataclass: bool = False
    is_dict: bool = False


_TYPING = {"List": "list", "Dict": "dict", "Tuple": "tuple", "Set": "set", "Sequence": "list"}
_BUILTIN = frozenset({"str", "int", "float", "bool", "list", "dict", "tuple", "set", "None", "Literal"})


def hints(annotation: ast.expr, module: Module) -> Iterator[Hint]:
    """The alternatives of an annotation: of ``int | None``, int and None."""
    match annotation:
        case ast.Constant(None):
            yield Hint("None")
        case ast.Constant(str(text)):
            yield from hints(ast.parse(text, mode="eval").body, module)
        case ast.BinOp(left, ast.BitOr(), right):
            yield from hints(left, module)
            yield from hints(right, module)
        case ast.Name(name) if name in _BUILTIN or name in _TYPING:
            yield Hint(_TYPING.get(name, name))
        case ast.Name(name):
            yield from _named(name, module)
        case ast.Subscript(ast.Name("Optional"), inner):
            yield from hints(inner, module)
            yield Hint("None")
        case ast.Subscript(ast.Name("Union"), ast.Tuple(alternatives)):
            for alternative in alternatives:
                yield from hints(alternative, module)
        case ast.Subscript(ast.Name("Annotated" | "A" | "SkipValidation"), inner):
            yield from hints(inner.elts[0] if isinstance(inner, ast.Tuple) else inner, module)
        case ast.Subscript(ast.Name("Literal"), inner):
            yield Hint("Literal", choices=tuple(_literals(inner, module)))
        case ast.Subscript(ast.Name(name), inner):
            yield Hint(_TYPING.get(name, name), inner=inner, module=module)
        case _:
            yield Hint("object")


def _named(name: str, module: Module) -> Iterator[Hint]:
    found = module.find(name)
    if found is None or isinstance(found.node, ast.FunctionDef):
        yield Hint(name)
    elif isinstance(found.node, ast.ClassDef):
        cls = found.node
        decorators = {_called(decorator) for decorator in cls.decorator_list}
        bases = {_called(base.value if isinstance(base, ast.Subscript) else base) for base in cls.bases}
        yield Hint(name, is_dataclass=bool(decorators & {"dataclass", "config"}), is_dict="dict" in bases)
    else:
        yield from hints(found.node, found.module)


def _called(node: ast.expr) -> str:
    match node:
        case ast.Call(func=func):
            return _called(func)
        case ast.Attribute(attr=name) | ast.Name(name):
            return name
    return ""


def _literals(node: ast.expr, module: Module) -> Iterator[Any]:
    for entry in node.elts if isinstance(node, ast.Tuple) else (node,):
        match entry:
            case ast.Constant(value):
                yield value
            case ast.Name(name) if (found := module.find(name)) and isinstance(found.node, ast.expr):
                # Literal[OTHER_LITERAL, "more"]
                for hint in hints(found.node, found.module):
                    yield from hint.choices
            case ast.Subscript(ast.Name("Literal"), inner):
                yield from _literals(inner, module)


def literal(node: ast.expr | None, module: Module) -> Any:
    """The value of an expression that is one; UNKNOWN for anything else."""
    match node:
        case ast.Constant(value):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
            return -value
        case ast.List(entries) | ast.Tuple(entries) | ast.Set(entries):
            values = [literal(entry, module) for entry in entries]
            return UNKNOWN if any(value is UNKNOWN for value in values) else values
        case ast.BinOp(left, ast.Add(), right):
            first, second = literal(left, module), literal(right, module)
            both_lists = isinstance(first, list) and isinstance(second, list)
            return first + second if both_lists else UNKNOWN
        case ast.Name(name) if (found := module.find(name)) and isinstance(found.node, ast.expr):
            return literal(found.node, found.module)
    return UNKNOWN


def option_names(arguments: list[ast.expr]) -> tuple[str, ...]:
    """The strings that an ``add_argument`` call begins with."""
    return tuple(a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str))
