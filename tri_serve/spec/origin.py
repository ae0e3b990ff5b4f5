"""Where a value of the spec comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Origin:
    """One place that can say something: a preset, a line of a file, a variable, a flag, or nobody (default).

    ``name`` is the preset's name, the file as the user wrote it, the variable or the flag; ``line`` counts
    from 1 and exists for files and presets.
    """

    kind: Literal["default", "preset", "file", "variable", "flag"]
    name: str = ""
    line: int | None = None

    def __str__(self) -> str:
        match self.kind:
            case "default":
                return "default"
            case "preset":
                return f"preset {self.name}"
            case "file" if self.line is not None:
                return f"{self.name}:{self.line}"
            case _:
                return self.name


DEFAULT = Origin("default")
"""The origin of what nobody said."""
