"""The flags among ``engine.extra_args``, with their values."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tri_serve.spec.secrets import mask_arguments


@dataclass(frozen=True)
class Flag:
    """One flag as it was given."""

    name: str
    """As vLLM documents it, with dashes: ``--swap-space``."""
    written: str
    """As the user wrote it."""
    value: str | None
    """None: no value follows, or the flag takes none."""
    start: int
    """Where it stands, and where what follows it begins."""
    end: int


def flags_in(extra_args: Sequence[str]) -> Iterator[Flag]:
    """Each flag. ``--name=value`` and ``--name value`` are one; vLLM takes ``_`` for ``-`` in names."""
    index = 0
    while index < len(extra_args):
        start, argument = index, extra_args[index]
        index += 1
        if not argument.startswith("--") or len(argument) < 3:
            continue
        written, equals, value = argument.partition("=")
        text: str | None = value if equals else None
        if not equals and index < len(extra_args) and not extra_args[index].startswith("-"):
            text = extra_args[index]
            index += 1
        yield Flag(written.replace("_", "-"), written, text, start, index)


def value_of(extra_args: Sequence[str], name: str) -> str | None:
    """The value of the last flag of that name, which is the one that counts; None if it is not there."""
    return next((flag.value for flag in reversed(list(flags_in(extra_args))) if flag.name == name), None)


def without(extra_args: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """``extra_args`` with those flags and their values taken out."""
    gone = {
        place for flag in flags_in(extra_args) if flag.name in names for place in range(flag.start, flag.end)
    }
    return tuple(argument for place, argument in enumerate(extra_args) if place not in gone)


def as_change(extra_args: Sequence[str]) -> dict[str, str]:
    """The change of the spec that makes them its ``extra_args``, without secrets: it is printed."""
    return {"engine.extra_args": json.dumps(mask_arguments(extra_args), ensure_ascii=False)}
