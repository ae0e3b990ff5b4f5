"""Percentiles and tables of at most 80 columns. Pure."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence

WIDTH = 80


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 to 1) of all do not exceed; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """``count``, ``min``, ``median``, ``max``; None where nothing was measured, as JSON knows no NaN."""
    if not values:
        return {"count": 0, "min": None, "median": None, "max": None}
    return {
        "count": len(values),
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
    }


def seconds(value: float | None, digits: int = 1) -> str:
    """``12.3 s``; below a tenth of a second in milliseconds; a dash for nothing."""
    if value is None or math.isnan(value):
        return "–"
    if value < 0.1:
        return f"{value * 1e3:.1f} ms"
    return f"{value:.{digits}f} s"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, its first column to the left and the others to the right.

    Raises ValueError if it does not fit a terminal of 80 columns.
    """
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = []
    for number, row in enumerate(cells):
        padded = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(padded) + " |")
        if number == 0:
            rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            lines.append("| " + " | ".join(rule) + " |")
    if len(lines[0]) > WIDTH:
        raise ValueError(f"a table of {len(lines[0])} columns")
    return "\n".join(lines)


def sentence(text: str) -> str:
    """A sentence, wrapped as the tables are."""
    return textwrap.fill(text, WIDTH)
