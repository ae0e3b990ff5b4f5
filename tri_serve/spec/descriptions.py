"""What is said under each field of a model, read from its source when a schema or a reference is made.

pydantic can do the same as it builds a model (use_attribute_docstrings), and would then read the source of every
model at every start of every command, which only these two need.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema


@cache
def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstring under each field of ``model``, those of its bases included."""
    docs: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            docs |= _own_docs(kind)
    return docs


class DescribedSchema(GenerateJsonSchema):
    """A JSON schema in which each field has what is said under it as its description."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """The schema of one model."""
        made = super().model_schema(schema)
        kind: type[BaseModel] = schema["cls"]
        docs = field_docs(kind)
        for name, entry in made.get("properties", {}).items():
            if name in docs:
                entry.setdefault("description", docs[name])
        return made


def _own_docs(model: type[BaseModel]) -> dict[str, str]:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            docs[statement.target.id] = inspect.cleandoc(after.value.value)
    return docs
