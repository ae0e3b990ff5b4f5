"""Whether one result differs from another by more than chance, and whether that is for the worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tri_serve.errors import ClientSaturatedError, RegressionError, TriServeError, UsageError
from tri_serve.load.results.model import RunResult
from tri_serve.load.results.resampling import (
    goodput_draws,
    latency_draws,
    log_ratio_interval,
    token_rate_draws,
)
from tri_serve.load.verdict import Level

Direction = Literal["better", "worse", "no difference"]

_FEWEST_FOR_P99 = 500
"""Requests below which fewer than five lie beyond the p99: it is shown, and no regression is made of it."""
_FEWEST_ROUNDS = 3
"""Runs on each side from which on whole runs are compared: what happens between runs is then in the interval."""
_SEED = 20_260_101
"""Of the resampling: the same files give the same interval."""
_LATENCIES = (
    ("ttft_sched", 50),
    ("ttft_sched", 99),
    ("tpot", 50),
    ("tpot", 99),
    ("max_gap", 99),
    ("e2e_sched", 50),
    ("e2e_sched", 99),
)


class Difference(BaseModel):
    """One figure of both sides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    unit: str
    base: float
    other: float
    change: float
    """other ÷ base − 1."""
    low: float
    high: float
    """95 % interval of ``change``."""
    direction: Direction
    """By more than chance: the interval does not hold 0."""
    judged: bool
    """Whether it can be a regression; a percentile of too few requests cannot."""


class Comparison(BaseModel):
    """One side against another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: tuple[str, ...]
    """Runs of the one side."""
    other: tuple[str, ...]
    by: Literal["rounds", "requests"]
    """What was resampled: whole runs, or the requests of one run each."""
    allowed: float
    differences: tuple[Difference, ...]
    regressions: tuple[str, ...]
    """Names of what is worse by more than chance and by more than ``allowed``."""
    remarks: tuple[str, ...]
    believed: bool
    """Whether the client of no run was the limit."""


def compare(base: Sequence[RunResult], other: Sequence[RunResult], *, allowed: float = 0.05) -> Comparison:
    """``other`` against ``base``, each one run or rounds of the same.

    From three runs a side on, the interval is of the ratio of geometric means over runs (Welch's t on logarithms).
    Else of resampled requests (bootstrap, percentile interval; for throughput of blocks of time): what differs
    between runs of the same server is then not in it, which a remark says. Raises UsageError without results.
    """
    if not base or not other:
        raise UsageError("a comparison needs at least one result on each side")
    rounds = min(len(base), len(other)) >= _FEWEST_ROUNDS
    found = _by_rounds(base, other) if rounds else _by_requests(base[0], other[0])
    regressions = tuple(
        it.name for it in found if it.judged and it.direction == "worse" and abs(it.change) > allowed
    )
    used = (base, other) if rounds else (base[:1], other[:1])
    return Comparison(
        base=tuple(run.run for run in used[0]),
        other=tuple(run.run for run in used[1]),
        by="rounds" if rounds else "requests",
        allowed=allowed,
        differences=tuple(found),
        regressions=regressions,
        remarks=tuple(_remarks(base, other, rounds=rounds)),
        believed=not any(_clients_fault(run) for side in used for run in side),
    )


def error_of(comparison: Comparison) -> TriServeError | None:
    """What a command that printed the comparison ends with; None: no regression."""
    if not comparison.believed:
        return ClientSaturatedError(
            "a run in the comparison is INVALID: its client was the limit, so that nothing follows from it",
            hint="run it again with more client processes, or at a lower rate",
        )
    if comparison.regressions:
        return RegressionError(
            f"worse by more than chance and more than {comparison.allowed:.0%}: {', '.join(comparison.regressions)}"
        )
    return None


def _clients_fault(run: RunResult) -> bool:
    return any(reason.level is Level.INVALID and reason.cause == "client" for reason in run.verdict.reasons)


def _by_requests(base: RunResult, other: RunResult) -> list[Difference]:
    chance = np.random.default_rng(_SEED)
    found = []
    for name, percent in _LATENCIES:
        if name in base.histograms and name in other.histograms:
            one, two = (latency_draws(run.histograms[name], percent, chance) for run in (base, other))
            few = min(run.figures.latencies[name].count for run in (base, other)) < _FEWEST_FOR_P99
            exact = [_latency(run, name, percent) for run in (base, other)]
            # What is 0, as between tokens that came in one piece, has no ratio to anything.
            if min(exact[0], float(one.min())) > 0:
                found.append(
                    _drawn(f"{name} p{percent}", "ms", exact, two / one - 1, judged=percent < 99 or not few)
                )
    rates = [token_rate_draws(run.figures, chance) for run in (base, other)]
    exact = [run.figures.steady.output_tokens_per_second for run in (base, other)]
    if rates[0] is not None and rates[1] is not None and exact[0] > 0:
        found.append(_drawn("output tok/s", "", exact, rates[1] / rates[0] - 1, higher_is_better=True))
    shares = [run.figures.goodput.share for run in (base, other)]
    if shares[0] and shares[1] is not None:
        one, two = (goodput_draws(run.figures.goodput, chance) for run in (base, other))
        if float(one.min()) > 0:
            found.append(_drawn("goodput", "", [shares[0], shares[1]], two / one - 1, higher_is_better=True))
    return found


def _drawn(
    name: str,
    unit: str,
    exact: Sequence[float],
    changes: np.ndarray,
    *,
    judged: bool = True,
    higher_is_better: bool = False,
) -> Difference:
    low, high = (float(end) for end in np.percentile(changes, (2.5, 97.5)))
    return _difference(name, unit, exact, (low, high), judged=judged, higher_is_better=higher_is_better)


def _difference(
    name: str,
    unit: str,
    exact: Sequence[float],
    interval: tuple[float, float],
    *,
    judged: bool,
    higher_is_better: bool,
) -> Difference:
    low, high = interval
    direction: Direction = "no difference"
    if low > 0 or high < 0:
        direction = "better" if (low > 0) == higher_is_better else "worse"
    return Difference(
        name=name,
        unit=unit,
        base=exact[0],
        other=exact[1],
        change=exact[1] / exact[0] - 1,
        low=low,
        high=high,
        direction=direction,
        judged=judged,
    )


def _by_rounds(base: Sequence[RunResult], other: Sequence[RunResult]) -> list[Difference]:
    found = []
    for name, percent in _LATENCIES:
        sides = [
            [_latency(run, name, percent) for run in side if name in run.figures.latencies]
            for side in (base, other)
        ]
        found += _rounds(f"{name} p{percent}", "ms", sides, higher_is_better=False)
    sides = [[run.figures.steady.output_tokens_per_second for run in side] for side in (base, other)]
    found += _rounds("output tok/s", "", sides, higher_is_better=True)
    sides = [[run.figures.goodput.share or 0.0 for run in side] for side in (base, other)]
    found += _rounds("goodput", "", sides, higher_is_better=True)
    return found


def _rounds(
    name: str, unit: str, sides: Sequence[Sequence[float]], *, higher_is_better: bool
) -> list[Difference]:
    """None where a side has too few runs with that figure, or one of them is 0: it has no logarithm."""
    if any(len(side) < _FEWEST_ROUNDS or min(side) <= 0 for side in sides):
        return []
    exact = [math.exp(sum(math.log(value) for value in side) / len(side)) for side in sides]
    interval = log_ratio_interval(sides[0], sides[1])
    return [_difference(name, unit, exact, interval, judged=True, higher_is_better=higher_is_better)]


def _latency(run: RunResult, name: str, percent: int) -> float:
    return float(getattr(run.figures.latencies[name], f"p{percent}"))


def _remarks(base: Sequence[RunResult], other: Sequence[RunResult], *, rounds: bool) -> list[str]:
    runs = (*base, *other)
    remarks = []
    if len({run.workload.hash for run in runs}) > 1:
        remarks.append("the runs did not ask the same things (workload hashes differ)")
    if len({run.scenario.hash for run in runs}) > 1:
        remarks.append("the runs are not of the same scenario, or not with the same overrides")
    if len({run.target.model for run in runs}) > 1:
        remarks.append("the runs are of different models")
    remarks += [
        f"{run.run} is {run.verdict.level.value}" for run in runs if run.verdict.level is not Level.VALID
    ]
    remarks += [f"{run.run} was stopped before its end" for run in runs if not run.complete]
    if not rounds:
        remarks.append(
            "one run a side: what differs from run to run of the same server is not in the intervals; "
            f"repeat each at least {_FEWEST_ROUNDS} times (load run --repeat)"
        )
        if len(runs) > 2:
            remarks.append("of fewer than three runs a side the first one is used")
    return remarks
