"""Whether something stays flat: the slope of a line through samples, with a 95 % interval that can fail."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

BINS = 10
"""Samples near each other are alike (garbage was just collected, or was not): means of tenths are less so."""
_T_95 = 2.306
"""Student's t of BINS − 2 degrees of freedom."""

Flatness = Literal["flat", "grows", "cannot be said"]


@dataclass(frozen=True, slots=True)
class Slope:
    """Units of y for one of x."""

    slope: float
    half_width: float
    """Of the 95 % interval."""

    @property
    def least(self) -> float:
        """The interval's lower end."""
        return self.slope - self.half_width

    @property
    def most(self) -> float:
        """Its upper end."""
        return self.slope + self.half_width

    def judged(self, bound: float) -> Flatness:
        """Flat only where the whole interval is below ``bound``: noise cannot pass for flatness."""
        if self.most < bound:
            return "flat"
        return "grows" if self.least > bound else "cannot be said"


def slope_of(points: Sequence[tuple[float, float]]) -> Slope | None:
    """The least-squares line through the means of ten parts of equal width in x; None where a part is empty."""
    if not points:
        return None
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    if right <= left:
        return None
    parts: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for x, y in points:
        parts[min(BINS - 1, int(BINS * (x - left) / (right - left)))].append((x, y))
    if not all(parts):
        return None
    xs = [statistics.fmean(x for x, _ in part) for part in parts]
    ys = [statistics.fmean(y for _, y in part) for part in parts]
    slope, offset = statistics.linear_regression(xs, ys)
    rest = sum((y - offset - slope * x) ** 2 for x, y in zip(xs, ys, strict=True)) / (BINS - 2)
    middle = statistics.fmean(xs)
    return Slope(slope, _T_95 * math.sqrt(rest / sum((x - middle) ** 2 for x in xs)))
