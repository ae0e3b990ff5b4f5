"""The rate at which a server stops keeping its SLO: a few whole runs, each a verdict of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tri_serve.errors import UsageError
from tri_serve.load.results.model import RunResult
from tri_serve.load.verdict import error_of, fault_of


@dataclass(frozen=True)
class Point:
    """One run of the search."""

    rate: float
    result: RunResult

    @property
    def believed(self) -> bool:
        """Whether it says something of the server: an INVALID run of the client's doing does not."""
        return fault_of(self.result.verdict.reasons) in (None, "server")

    @property
    def kept(self) -> bool:
        """Whether the SLO was kept, and the server answered as it must."""
        return bool(self.result.verdict.slo_met) and fault_of(self.result.verdict.reasons) is None


@dataclass(frozen=True)
class Knee:
    """What the search found."""

    points: tuple[Point, ...]
    """In order of their rates; of one rate in the order in which they were made."""
    kept: float | None
    """The highest rate at which the SLO was kept; None if it was kept at none."""
    missed: float | None
    """The lowest rate at which it was not; None if it was kept at all."""
    ended_because: str
    """Why the search went no further; empty where the two are near enough."""
    last: Point
    """The run that was made last: what the search ended with."""


def find_knee(
    run: Callable[[float], RunResult],
    *,
    lowest: float,
    highest: float,
    precision: float = 0.1,
    most_runs: int = 12,
) -> Knee:
    """Search between two rates: doubled until the SLO breaks, then halved in ratio until ``precision`` is reached.

    ``precision`` is the allowed ratio of the two rates, less 1. A run that is not to be believed is made once more,
    since something else on the machine for a moment is no limit; if that one is not either, the search ends: from
    there on the client is the limit. Raises UsageError for rates that are none.
    """
    if not 0 < lowest <= highest or not math.isfinite(highest):
        raise UsageError(f"the lowest rate {lowest:g} must be above 0 and not above the highest, {highest:g}")
    points: list[Point] = []
    kept: float | None = None
    missed: float | None = None
    rate, ended = lowest, ""
    while True:
        point = Point(rate, run(rate))
        points.append(point)
        if not point.result.complete:
            ended = f"stopped: {point.result.stopped_because}"
            break
        if not point.believed:
            if len(points) > 1 and points[-2].rate == rate:
                ended = f"at {rate:g} requests/s, tried twice, {_why(point.result)}"
                break
            continue
        if point.kept:
            kept = rate
        else:
            missed = rate
        following = _next(kept, missed, lowest, highest, precision)
        if following is None:
            if missed is None:
                ended = f"kept up to {rate:g} requests/s, the highest rate that was allowed"
            break
        if len(points) >= most_runs:
            ended = f"{most_runs} runs were made"
            break
        rate = following
    return Knee(tuple(sorted(points, key=lambda point: point.rate)), kept, missed, ended, points[-1])


def _why(result: RunResult) -> str:
    error = error_of(result.verdict)
    return error.message if error is not None else "the figures are not to be believed"


def _next(
    kept: float | None, missed: float | None, lowest: float, highest: float, precision: float
) -> float | None:
    if kept is None:
        # Broken at the lowest rate: there is nothing below it to look for.
        return None
    if missed is None:
        return None if kept >= highest else min(2 * kept, highest)
    if missed / kept <= 1 + precision:
        return None
    return round(math.sqrt(kept * missed), 4)
