"""An engine's command line, option by option, before it is joined into arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One flag with its value, and what asked for it."""

    flag: str
    value: str | None
    """None: the flag takes none."""
    key: str
    """The key of the spec that it says: ``engine.max_num_seqs``; empty for what tri-serve itself wants."""


def joined(options: Iterable[Option]) -> Iterator[str]:
    """``--flag=value``: one argument each, so that none can be taken for another's value."""
    for option in options:
        yield option.flag if option.value is None else f"{option.flag}={option.value}"


def spaced(options: Iterable[Option]) -> Iterator[str]:
    """``--flag value``, as people and model cards write it."""
    for option in options:
        yield option.flag
        if option.value is not None:
            yield option.value
