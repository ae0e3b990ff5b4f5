"""The flags of ``vllm serve``, read from vLLM's source without importing it.

vLLM makes its parser from dataclasses: ``get_kwargs(CacheConfig)`` turns each field's annotation into what
argparse wants (vllm/engine/arg_utils.py), and ``add_cli_args`` gives the results their flags. Both are
followed here over the syntax trees. tests/e2e/launch compares the outcome with the real parser.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tri_serve.errors import UsageError
from tri_serve.launch.flags.source_tree import Definition, Module, SourceTree, method
from tri_serve.launch.flags.table import Flag
from tri_serve.launch.flags.values import Hint, Value, hints, literal, option_names

# The module has moved; all three are modules with ``make_arg_parser``.
_PARSER_MODULES = (
    "vllm.entrypoints.common.cli_args",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.cli_args",
)

FEWEST = 50
"""A parser with fewer flags was not understood: the smallest of the versions known has 225."""

_Kwargs = dict[str, Value]


def read_vllm(root: Path) -> tuple[Flag, ...]:
    """Every flag of ``vllm serve``; ``root`` is the folder that holds the package ``vllm``.

    Raises UsageError if the tree is no vLLM, or one whose parser is made otherwise.
    """
    tree = SourceTree(root)
    frontend = tree.first_module(*_PARSER_MODULES)
    engine = tree.first_module("vllm.engine.arg_utils")
    found = [
        *_parser_calls(_function(frontend, "make_arg_parser"), frontend),
        *_frontend_flags(_class(frontend, "FrontendArgs")),
        *_parser_calls(_class_method(engine, "EngineArgs", "add_cli_args"), engine),
        *_parser_calls(_class_method(engine, "AsyncEngineArgs", "add_cli_args"), engine),
    ]
    if len(found) < FEWEST:
        raise UsageError(f"{root}: only {len(found)} flags were found; this vLLM makes its parser otherwise")
    return tuple(found)


def _function(module: Module, name: str) -> ast.FunctionDef:
    found = module.find(name)
    if found is None or not isinstance(found.node, ast.FunctionDef):
        raise UsageError(f"{module.file}: no function {name}")
    return found.node


def _class(module: Module, name: str) -> Definition:
    found = module.find(name)
    if found is None or not isinstance(found.node, ast.ClassDef):
        raise UsageError(f"{module.file}: no class {name}")
    return found


def _class_method(module: Module, cls: str, name: str) -> ast.FunctionDef:
    node = _class(module, cls).node
    found = method(node, name) if isinstance(node, ast.ClassDef) else None
    if found is None:
        raise UsageError(f"{module.file}: no method {cls}.{name}")
    return found


def _frontend_flags(frontend: Definition) -> Iterator[Flag]:
    """One flag for each field, which the classes' own methods change afterwards."""
    assert isinstance(frontend.node, ast.ClassDef)
    values = dict(_fields(frontend))
    for definition in (*_bases(frontend), frontend):
        assert isinstance(definition.node, ast.ClassDef)
        for name in ("_customize_cli_kwargs", "add_cli_args"):
            if (function := method(definition.node, name)) is not None:
                for statement in ast.walk(function):
                    _change(statement, {"frontend_kwargs": values}, definition.module)
    for name, value in values.items():
        yield _flag((f"--{name.replace('_', '-')}",), value)


def _bases(definition: Definition) -> Iterator[Definition]:
    assert isinstance(definition.node, ast.ClassDef)
    for base in definition.node.bases:
        found = definition.module.find(base.id) if isinstance(base, ast.Name) else None
        if found is not None and isinstance(found.node, ast.ClassDef):
            yield from _bases(found)
            yield found


def _parser_calls(function: ast.FunctionDef, module: Module) -> Iterator[Flag]:
    """The flags of a function's ``add_argument`` calls, in order."""
    kwargs: dict[str, _Kwargs] = {}
    single: _Kwargs = {}
    for statement in _statements(function.body):
        match statement:
            case ast.Assign([ast.Name(name)], ast.Call(ast.Name("get_kwargs"), [ast.Name(cls)])):
                kwargs[name] = dict(_fields(_class(module, cls)))
            case ast.Assign([ast.Name(name)], ast.Subscript() as value):
                if (one := _one(value, kwargs, single, module)) is not None:
                    single[name] = one
            case ast.Expr(ast.Call(ast.Attribute(attr="add_argument")) as call):
                names = option_names(call.args)
                if names and names[0].startswith("-"):
                    yield _flag(names, _argument(call, kwargs, single, module))
            case _:
                _change(statement, kwargs, module)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _statements(statement.body)
            yield from _statements(statement.orelse)
        else:
            yield statement


def _one(
    node: ast.expr, kwargs: Mapping[str, _Kwargs], single: Mapping[str, Value], module: Module
) -> Value | None:
    """What ``cache_kwargs["block_size"]`` and its like stand for."""
    match node:
        case ast.Name(name):
            return single.get(name)
        case ast.Subscript(ast.Name(name), ast.Constant(str(key))) if name in kwargs:
            return kwargs[name].get(key)
        case ast.Subscript(ast.Call(ast.Name("get_kwargs"), [ast.Name(cls)]), ast.Constant(str(key))):
            return dict(_fields(_class(module, cls))).get(key)
    return None


def _argument(
    call: ast.Call, kwargs: Mapping[str, _Kwargs], single: Mapping[str, Value], module: Module
) -> Value:
    value = Value(default=None)
    for keyword in call.keywords:
        match keyword:
            case ast.keyword(None, ast.Dict(keys, values)):
                for key, entry in zip(keys, values, strict=True):
                    if key is None:
                        value = _one(entry, kwargs, single, module) or value
                    elif isinstance(key, ast.Constant) and key.value == "default":
                        value = value.with_default(literal(entry, module))
            case ast.keyword(None, entry):
                value = _one(entry, kwargs, single, module) or value
            case ast.keyword(str(name), entry):
                value = _with(value, name, entry, module)
    return value


def _change(statement: ast.AST, kwargs: Mapping[str, _Kwargs], module: Module) -> None:
    """Statements that alter one field's arguments before a flag is made of them."""
    match statement:
        case ast.Assign(
            [ast.Subscript(ast.Subscript(ast.Name(name), ast.Constant(str(field))), ast.Constant(str(what)))]
        ):
            if field in kwargs.get(name, {}):
                kwargs[name][field] = _with(kwargs[name][field], what, statement.value, module)
        case ast.AugAssign(ast.Subscript(ast.Subscript(ast.Name(name), ast.Constant(str(field))))):
            # Choices that are computed: the list is not closed to us.
            kwargs[name][field] = replace(kwargs[name][field], choices=())
        case ast.Delete(
            [ast.Subscript(ast.Subscript(ast.Name(name), ast.Constant(str(field))), ast.Constant("nargs"))]
        ):
            kwargs[name][field] = replace(kwargs[name][field], many=False)
        case ast.Expr(
            ast.Call(
                ast.Attribute(
                    ast.Subscript(
                        ast.Subscript(ast.Name(name), ast.Constant(str(field))), ast.Constant("choices")
                    ),
                    "remove",
                ),
                [entry],
            )
        ) if name in kwargs:
            left = tuple(c for c in kwargs[name][field].choices if c != literal(entry, module))
            kwargs[name][field] = replace(kwargs[name][field], choices=left)


def _with(value: Value, name: str, entry: ast.expr, module: Module) -> Value:
    """The value with one of argparse's keyword arguments."""
    source = ast.unparse(entry)
    match name:
        case "default":
            return value.with_default(literal(entry, module))
        case "nargs":
            nargs = literal(entry, module)
            return replace(value, many=nargs in {"+", "*"}, optional=nargs == "?")
        case "choices":
            return replace(value, choices=_choices(entry, module))
        case "action" if "store_true" in source:
            return replace(value, kind="switch", default=False)
        case "action" if "BooleanOptionalAction" in source:
            return replace(value, kind="bool")
        case "action" if "append" in source:
            return replace(value, repeated=True)
        case "type" if "json.loads" in source:
            return replace(value, kind="json")
        case "type" if source in {"int", "float"}:
            return replace(value, kind=source)
    return value


def _choices(entry: ast.expr, module: Module) -> tuple[str, ...]:
    if isinstance(entry, ast.Call) and ast.unparse(entry.func) == "get_args":
        found = [choice for hint in hints(entry.args[0], module) for choice in hint.choices]
    else:
        listed = literal(entry, module)
        found = listed if isinstance(listed, list) else []
    return tuple(str(choice) for choice in found)


def _fields(definition: Definition) -> Iterator[tuple[str, Value]]:
    """The fields of a config class, as ``_compute_kwargs`` of vllm/engine/arg_utils.py takes them."""
    assert isinstance(definition.node, ast.ClassDef)
    for module, field in definition.module.class_fields(definition.node):
        if isinstance(field.target, ast.Name) and not ast.unparse(field.annotation).startswith("ClassVar"):
            value = _of_annotation(tuple(hints(field.annotation, module)))
            yield field.target.id, value.with_default(_default(field.value, module))


def _default(node: ast.expr | None, module: Module) -> object:
    if isinstance(node, ast.Call):
        default = next((k.value for k in node.keywords if k.arg == "default"), None)
        return literal(default or (node.args[0] if node.args else None), module)
    return literal(node, module)


def _of_annotation(alternatives: tuple[Hint, ...]) -> Value:
    """The order of the questions is vLLM's."""
    by_name = {hint.name: hint for hint in alternatives}
    if any(hint.is_dataclass for hint in alternatives):
        return Value("json")
    if set(by_name) == {"bool", "str", "None"}:
        return Value(optional=True)
    if "bool" in by_name:
        return Value("bool")
    if "Literal" in by_name:
        choices = [choice for hint in alternatives for choice in hint.choices]
        kind = "int" if choices and all(type(choice) is int for choice in choices) else "text"
        return Value(kind, choices=() if "str" in by_name else tuple(map(str, choices)))
    for name in ("tuple", "list", "set"):
        if name in by_name:
            return _sequence(by_name[name])
    for name in ("int", "float"):
        if name in by_name:
            return Value(name)
    dicts = {hint.name for hint in alternatives if hint.is_dict or hint.name == "dict"}
    return Value("json") if dicts and not set(by_name) - dicts - {"None"} else Value()


def _sequence(hint: Hint) -> Value:
    inner = hint.inner.elts[0] if isinstance(hint.inner, ast.Tuple) else hint.inner
    if inner is None or hint.module is None:
        return Value(many=True)
    elements = tuple(hints(inner, hint.module))
    kind = elements[0].name if len(elements) == 1 and elements[0].name in {"int", "float"} else "text"
    choices = tuple(str(choice) for element in elements for choice in element.choices)
    return Value(kind, choices=choices, many=True)


def _flag(names: tuple[str, ...], value: Value) -> Flag:
    # The first long name is the flag's own; the order of the others is the source's.
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
