"""The flags of ``python -m sglang.launch_server``, read from SGLang's source without importing it.

Up to 0.5.12 or so ``ServerArgs.add_cli_args`` (sglang/srt/server_args.py) names each flag; later most come from
annotated fields, ``port: A[int, Arg(...)] = 30000`` (sglang/srt/arg_groups/arg_utils.py), first of ServerArgs
itself and then of the classes in sglang/srt/arg_groups/fields. All three are read.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tri_serve.errors import UsageError
from tri_serve.launch.flags.source_tree import Module, SourceTree, method
from tri_serve.launch.flags.table import UNKNOWN, Flag
from tri_serve.launch.flags.values import Value, hints, literal, option_names

FEWEST = 50
"""A parser with fewer flags was not understood: the smallest of the versions known has 354."""

_PARSERS = {"json.loads": "json", "json_list_type": "json", "human_readable_int": "int"}


def read_sglang(root: Path) -> tuple[Flag, ...]:
    """Every flag of the server; ``root`` is the folder that holds the package ``sglang``.

    Raises UsageError if the tree is no SGLang, or one whose parser is made otherwise.
    """
    tree = SourceTree(root)
    module = tree.first_module("sglang.srt.server_args")
    found = next(
        (s for s in module.syntax.body if isinstance(s, ast.ClassDef) and s.name == "ServerArgs"), None
    )
    if found is None or (add_cli_args := method(found, "add_cli_args")) is None:
        raise UsageError(f"{module.file}: no ServerArgs.add_cli_args")
    records = [(module, found), *_namespaces(tree)]
    fields = [(where, field) for where, record in records for _, field in _annotated(where, record)]
    defaults = {_name(field): literal(field.value, where) for where, field in fields}
    flags = [
        *(flag for where, field in fields for flag in _of_field(where, field)),
        *_of_calls(module, add_cli_args, defaults),
    ]
    # A class may declare a field twice (dcp_size in 0.5.16): the later one counts.
    flags = list({flag.name: flag for flag in reversed(flags)}.values())[::-1]
    if len(flags) < FEWEST:
        raise UsageError(
            f"{root}: only {len(flags)} flags were found; this SGLang makes its parser otherwise"
        )
    return tuple(flags)


def _namespaces(tree: SourceTree) -> Iterator[tuple[Module, ast.ClassDef]]:
    folder = tree.root / "sglang" / "srt" / "arg_groups" / "fields"
    for file in sorted(folder.glob("*.py")) if folder.is_dir() else ():
        module = tree.first_module(f"sglang.srt.arg_groups.fields.{file.stem}")
        for statement in module.syntax.body:
            if isinstance(statement, ast.ClassDef) and "_NS_PATH" in ast.unparse(statement):
                yield module, statement


def _annotated(module: Module, record: ast.ClassDef) -> Iterator[tuple[Module, ast.AnnAssign]]:
    return ((module, s) for s in record.body if isinstance(s, ast.AnnAssign))


def _name(field: ast.AnnAssign) -> str:
    return field.target.id if isinstance(field.target, ast.Name) else ""


def _of_field(module: Module, field: ast.AnnAssign) -> Iterator[Flag]:
    """The flag of ``field: A[type, metadata]``; none if it has no metadata, or says that it has no flag."""
    match field.annotation:
        case ast.Subscript(ast.Name("A"), ast.Tuple([kind, *notes])):
            pass
        case _:
            return
    argument = next((n for n in notes if isinstance(n, ast.Call) and ast.unparse(n.func) == "Arg"), None)
    if argument is None and not any(_is_text(note) for note in notes):
        return
    said = {k.arg: k.value for k in argument.keywords if k.arg} if argument is not None else {}
    if literal(said.get("no_cli"), module) is True:
        return
    name = literal(said["cli_name"], module) if "cli_name" in said else f"--{_name(field).replace('_', '-')}"
    aliases = literal(said["aliases"], module) if "aliases" in said else []
    value = _of_annotation(kind, module)
    for keyword in ("action", "type_parser", "choices", "nargs"):
        if keyword in said:
            value = _with(value, keyword, said[keyword], module)
    if "nargs" in ast.unparse(said.get("action_kwargs", ast.Constant(None))):
        value = replace(value, many=True)
    yield _flag((name, *aliases), value.with_default(literal(field.value, module)))


def _is_text(note: ast.expr) -> bool:
    match note:
        case ast.Constant(str()) | ast.JoinedStr():
            return True
        case ast.BinOp(left, ast.Add(), _):
            return _is_text(left)
    return False


def _of_annotation(kind: ast.expr, module: Module) -> Value:
    """As ``add_cli_args_from_dataclass`` takes it: ``Optional`` is unwrapped, a union of more is text."""
    alternatives = [hint for hint in hints(kind, module) if hint.name != "None"]
    if len(alternatives) != 1:
        return Value()
    hint = alternatives[0]
    if hint.name == "Literal":
        kinds = {type(choice) for choice in hint.choices}
        return Value("int" if kinds == {int} else "text", choices=tuple(map(str, hint.choices)))
    if hint.name == "list":
        inner = hint.inner if isinstance(hint.inner, ast.Name) else None
        return Value(inner.id if inner is not None and inner.id in {"int", "float"} else "text", many=True)
    if hint.name == "bool":
        return Value("switch")
    return Value(hint.name if hint.name in {"int", "float"} else "text")


def _of_calls(module: Module, function: ast.FunctionDef, defaults: dict[str, object]) -> Iterator[Flag]:
    for statement in ast.walk(function):
        match statement:
            case ast.Expr(ast.Call(ast.Attribute(attr="add_argument"), arguments, keywords)):
                names = option_names(arguments)
                value = Value(default=None)
                for keyword in keywords:
                    if keyword.arg == "default":
                        value = value.with_default(_default(keyword.value, module, defaults))
                    elif keyword.arg:
                        value = _with(value, keyword.arg, keyword.value, module)
                if names:
                    yield _flag(names, value)


def _default(node: ast.expr, module: Module, defaults: dict[str, object]) -> object:
    match node:
        case ast.Attribute(ast.Name("ServerArgs"), name):
            return defaults.get(name, UNKNOWN)
        case ast.Call(ast.Name("_declared_default"), [ast.Constant(str(name))]):
            return defaults.get(name, UNKNOWN)
    return literal(node, module)


def _with(value: Value, name: str, entry: ast.expr, module: Module) -> Value:
    source = ast.unparse(entry)
    match name:
        case "action" if "BooleanOptionalAction" in source:
            return replace(value, kind="bool")
        case "action" if "StoreTrue" in source or "store_true" in source:
            return replace(value, kind="switch", default=False)
        case "action" if "append" in source:
            return replace(value, repeated=True)
        case "type" | "type_parser":
            kind = source if source in {"int", "float"} else _PARSERS.get(source, "text")
            # A parser of its own takes the whole value as one text.
            return replace(value, kind=kind, many=value.many and name != "type_parser")
        case "choices":
            listed = literal(entry, module)
            return replace(value, choices=tuple(map(str, listed)) if isinstance(listed, list) else ())
        case "nargs":
            nargs = literal(entry, module)
            return replace(value, many=nargs in {"+", "*"}, optional=nargs == "?")
    return value


def _flag(names: tuple[str, ...], value: Value) -> Flag:
    name = next(name for name in names if name.startswith("--"))
    return Flag(
        name=name,
        aliases=tuple(other for other in names if other != name),
        kind=value.kind,
        choices=tuple(sorted(value.choices)),
        many=value.many or value.repeated,
        optional=value.optional,
        negation=f"--no-{name[2:]}" if value.kind == "bool" else None,
        default=value.default,
    )
