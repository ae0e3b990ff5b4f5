"""One GPU's memory as a bar of blocks: each part has a block of its own, so that it is read without colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from tri_serve.cli.output import display_width
from tri_serve.plan.result import MemoryPlan, Term
from tri_serve.plan.words import gib

_SHADES = "█▓▒"
_PLAIN_SHADES = "#%+"
"""For output that takes ASCII alone."""
_KV, _PLAIN_KV = "░", "o"
_REST, _PLAIN_REST = "·", "."
_COLOURS = ("blue", "magenta", "cyan")
_KV_COLOUR = "green"


@dataclass(frozen=True)
class Part:
    """A part of the bar."""

    name: str
    nbytes: int
    block: str
    colour: str | None


def parts_of(memory: MemoryPlan, *, unicode: bool = True) -> tuple[Part, ...]:
    """The parts of the memory: weights, what the engine works with, the driver, the KV cache, what is left over.

    Small things are put together; ``--explain`` tells them apart.
    """
    weights, *working, cache = memory.terms
    driver = [term for term in memory.outside[:-1] if term.nbytes > 0]
    named = [
        (weights.name, weights.nbytes),
        (working[0].name if len(working) == 1 else "buffers and graphs", _sum(working)),
        ("driver", _sum(driver)),
    ]
    shades = _SHADES if unicode else _PLAIN_SHADES
    parts = [
        Part(name, nbytes, shade, colour)
        for (name, nbytes), shade, colour in zip(named, shades, _COLOURS, strict=True)
        if nbytes > 0
    ]
    if cache.nbytes > 0:
        parts.append(Part(cache.name, cache.nbytes, _KV if unicode else _PLAIN_KV, _KV_COLOUR))
    rest = memory.total - sum(part.nbytes for part in parts)
    if rest > 0:
        parts.append(Part("left over", rest, _REST if unicode else _PLAIN_REST, None))
    return tuple(parts)


def _sum(terms: Sequence[Term]) -> int:
    return sum(term.nbytes for term in terms)


def bar(parts: tuple[Part, ...], width: int) -> str:
    """The bar, ``width`` columns wide; nothing that is there vanishes."""
    text = ""
    for part, columns in zip(parts, _columns([part.nbytes for part in parts], width), strict=True):
        text += click.style(part.block * columns, fg=part.colour)
    return text


def _columns(sizes: list[int], width: int) -> list[int]:
    """``width`` shared out by size, at least one to each, what is over to the largest remainders."""
    total = sum(sizes)
    shares = [size * width / total for size in sizes]
    columns = [max(1, int(share)) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda index: columns[index] - shares[index])
    for index in by_remainder[: max(0, width - sum(columns))]:
        columns[index] += 1
    # What the small ones were given above their share, the largest gives.
    columns[columns.index(max(columns))] -= max(0, sum(columns) - width)
    return columns


def legend(parts: tuple[Part, ...], width: int) -> list[str]:
    """What each block stands for, in lines of at most ``width`` columns."""
    lines = [""]
    used = 0
    for part in parts:
        words = f"{part.name} {gib(part.nbytes)}"
        size = 2 + display_width(words)
        gap = 3 if used else 0
        if used + gap + size > width:
            lines.append("")
            used = gap = 0
        lines[-1] += " " * gap + click.style(part.block, fg=part.colour) + f" {words}"
        used += gap + size
    return lines
