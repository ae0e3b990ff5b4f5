"""Reading a checkpoint's JSON files, with errors that name the file, the key and what is allowed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tri_serve.errors import CheckpointError

CONFIG = "config.json"
MOST_BYTES = 128 * 2**20
"""Of a JSON file; the largest known, a tokenizer of 262,000 tokens, has 33 MB."""

_MOST = sys.float_info.max
_SHOWN = 120
"""Characters of a wrong value that are shown."""


def read_json_object(file: Path, *, hint: str | None = None) -> dict[str, Any]:
    """The JSON object in ``file``. Raises CheckpointError if it is not there or is none."""
    try:
        # A device or a pipe under that name has no end.
        if file.exists() and not file.is_file():
            raise CheckpointError(f"{file}: not a file", path=file, hint=hint)
        with file.open("rb") as stream:
            text = stream.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise CheckpointError(f"{file}: larger than {MOST_BYTES:,} bytes", path=file, hint=hint)
        value = json.loads(text)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file", path=file, hint=hint) from error
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}", path=file, hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not JSON: {error}", path=file, hint=hint) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: a JSON object is needed, not {kind(value)}", path=file, hint=hint)
    return value


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` of the checkpoint in ``directory``."""
    if not directory.is_dir():
        found = "is not a directory" if directory.exists() else "no such directory"
        raise CheckpointError(
            f"{directory}: {found}; a checkpoint is a directory with config.json and safetensors files",
            path=directory,
            hint="check model.source, or serve the checkpoint that ships with tri-serve: tiny:awq",
        )
    return read_json_object(
        directory / CONFIG,
        hint="a checkpoint is a directory with config.json, *.safetensors and a tokenizer: check model.source",
    )


class Values:
    """Typed access to the keys of a JSON object. ``where`` is the file, for messages."""

    def __init__(self, values: Mapping[str, Any], where: Path, prefix: str = "") -> None:
        self._values = values
        self._where = where
        self._prefix = prefix

    def wrong(self, key: str, needed: str) -> CheckpointError:
        """What to raise when ``key`` is not what is ``needed``."""
        found = json.dumps(self._values[key], ensure_ascii=False) if key in self._values else "not there"
        if len(found) > _SHOWN:
            found = f"{found[:_SHOWN]}…"
        return CheckpointError(
            f"{self._where}: {self._prefix}{key} is {found}; {needed} is needed", path=self._where
        )

    def has(self, key: str) -> bool:
        """Whether ``key`` is there; ``null`` counts as not there."""
        return self._values.get(key) is not None

    def is_zero(self, key: str) -> bool:
        """Whether it is the number 0, which some keys take for none."""
        return self._values.get(key) == 0 and not isinstance(self._values[key], bool)

    def natural(self, key: str, default: int | None = None, *, most: int = 2**31 - 1) -> int:
        """A whole number from 1 to ``most``. ``null`` counts as not there."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 1 <= value <= most:
            raise self.wrong(key, f"a whole number from 1 to {most:,}")
        return value

    def positive(self, key: str, default: float) -> float:
        """A number above 0."""
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
            raise self.wrong(key, "a number above 0")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; ``null`` or not there is none."""
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of strings")
        return tuple(value)


def kind(value: object) -> str:
    """What JSON calls a value of this type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
