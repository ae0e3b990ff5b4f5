"""Means with 95% intervals of paired rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Student's t, 97.5th percentile, by degrees of freedom 1 to 30; beyond, the normal's 1.96 and a little is kept.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95% interval; NaN bounds where one round says nothing of the spread."""

    mean: float
    low: float
    high: float


def of_differences(values: Sequence[float]) -> Interval:
    """Mean of values that were paired by subtraction (or not paired at all)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    degrees = len(values) - 1
    quantile = _T[degrees - 1] if degrees <= len(_T) else 2.0
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def of_ratios(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Geometric mean of ours/theirs round by round: t on the log ratios."""
    logs = of_differences([math.log(a / b) for a, b in zip(ours, theirs, strict=True)])
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high))
