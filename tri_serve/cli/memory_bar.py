"""One GPU's memory as a bar of blocks: each part has a block of its own, so that it is read without colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from tri_serve.cli.output import display_width
from tri_serve.plan.memory_parts import Part, Role
from tri_serve.plan.words import gib

BLOCKS: Mapping[Role, str] = {"weights": "█", "working": "▓", "driver": "▒", "cache": "░", "rest": "·"}
ASCII_BLOCKS: Mapping[Role, str] = {"weights": "#", "working": "%", "driver": "+", "cache": "o", "rest": "."}
"""For output that takes nothing else."""
_COLOURS: Mapping[Role, str | None] = {
    "weights": "blue",
    "working": "magenta",
    "driver": "yellow",
    "cache": "green",
    "rest": None,
}


def bar(parts: Sequence[Part], width: int, blocks: Mapping[Role, str] = BLOCKS) -> str:
    """The bar, ``width`` columns wide; nothing that is there vanishes."""
    sizes = _columns([part.nbytes for part in parts], width)
    return "".join(_block(part, blocks, size) for part, size in zip(parts, sizes, strict=True))


def _block(part: Part, blocks: Mapping[Role, str], count: int = 1) -> str:
    return click.style(blocks[part.role] * count, fg=_COLOURS[part.role])


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


def legend(parts: Sequence[Part], width: int, blocks: Mapping[Role, str] = BLOCKS) -> list[str]:
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
        lines[-1] += f"{' ' * gap}{_block(part, blocks)} {words}"
        used += gap + size
    return lines
