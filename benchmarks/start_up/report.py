"""From starts to a table. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmarks.faults.figures import seconds, sentence, spread
from benchmarks.faults.figures import table as lines_of
from benchmarks.gateway.intervals import of_ratios

from .contenders import Start

BARE = "bare"
PROMISED_RATIO = 1.3
"""Of a fleet's start to that of bare servers."""


def summarise(rounds: list[dict[str, Start]]) -> dict[str, Any]:
    """Seconds by contender, each fleet's ratio to the bare servers of the same round, and what Ray cost."""
    names = list(dict.fromkeys(name for one in sorted(rounds, key=len, reverse=True) for name in sorted(one)))
    times = {name: [one[name].seconds for one in rounds if name in one] for name in names}
    ratios = {}
    for name in names:
        pairs = [(one[name].seconds, one[BARE].seconds) for one in rounds if {name, BARE} <= one.keys()]
        if name != BARE and pairs:
            ratio = of_ratios([ours for ours, _ in pairs], [bare for _, bare in pairs])
            ratios[name] = {
                "mean": ratio.mean,
                "low": None if math.isnan(ratio.low) else ratio.low,
                "high": None if math.isnan(ratio.high) else ratio.high,
            }
    costs = [start.ray for one in rounds for start in one.values() if start.ray]
    return {
        "seconds": {name: spread(values) for name, values in times.items()},
        "ratios": ratios,
        "ray": {
            key: spread([cost[key] for cost in costs]) for key in ("processes", "rss_mib", "pss_mib") if costs
        },
        "spawned_seconds": {
            name: spread(values)
            for name in names
            if (
                values := [
                    s for one in rounds if name in one and (s := one[name].spawned_seconds) is not None
                ]
            )
        },
    }


def table(summary: dict[str, Any], replicas: int, *, cost: bool) -> str:
    """Seconds and ratios, in at most 80 columns."""
    rows: list[list[object]] = []
    for name, times in summary["seconds"].items():
        rows.append(
            [
                "bare servers" if name == BARE else f"up, {name}",
                times["count"],
                *(seconds(times[key]) for key in ("min", "median", "max")),
                _ratio(summary["ratios"].get(name)),
            ]
        )
    blocks = [
        lines_of(["started", "times", "min", "median", "max", "ratio"], rows),
        sentence(
            f"Seconds until each of {replicas} engines has given a whole stream of 64 tokens; up: tri-serve up "
            "with that supervisor. The bare servers have the fleet's own argv and environment and start together. "
            "Ratio: geometric mean of the rounds, with its 95% interval."
        ),
    ]
    if cost:
        measured: list[tuple[str, dict[str, Any], Callable[[float], str]]] = [
            (f"first engine begun, {name}", times, seconds)
            for name, times in summary["spawned_seconds"].items()
        ]
        for key, words in (("processes", "processes"), ("rss_mib", "RSS, MiB"), ("pss_mib", "PSS, MiB")):
            if key in summary["ray"]:
                measured.append((f"Ray itself: {words}", summary["ray"][key], "{:,.0f}".format))
        blocks.append(
            lines_of(
                ["cost", "min", "median", "max"],
                [
                    [words, *(said(of[part]) for part in ("min", "median", "max"))]
                    for words, of, said in measured
                ],
            )
        )
        blocks.append(
            sentence(
                "First engine begun: from the supervisor's start until it had started an engine's program, for "
                "which Ray has to be up. Memory: all of Ray's own processes and its workers, without engines, "
                "gateway and supervisor."
            )
        )
    return "\n\n".join(blocks)


def _ratio(ratio: dict[str, float | None] | None) -> str:
    if ratio is None:
        return "–"
    if ratio["low"] is None or ratio["high"] is None:
        return f"{ratio['mean']:.2f}x"
    return f"{ratio['mean']:.2f}x [{_short(ratio['low'])}, {_short(ratio['high'])}]"


def _short(bound: float) -> str:
    """Of a few rounds that agree badly a bound says nothing, and must not break the table."""
    return f"{bound:.2f}" if bound < 100 else "inf"
