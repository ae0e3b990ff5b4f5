"""Whether one result differs from another by more than chance, and whether that is for the worse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tri_serve.errors import UsageError
from tri_serve.load.results.comparison import Comparison, Difference, Direction, Unbelieved, error_of
from tri_serve.load.results.model import RunResult
from tri_serve.load.results.resampling import (
    goodput_draws,
    latency_draws,
    log_ratio_interval,
    token_rate_draws,
)
from tri_serve.load.verdict import Level, fault_of

__all__ = ["compare", "error_of"]

_FEWEST_FOR_P99 = 500
"""Requests below which fewer than five lie beyond the p99: it is shown, and no regression is made of it."""
_FEWEST_ROUNDS = 3
"""Runs on each side from which on whole runs are compared: what happens between runs is then in the interval."""
_NO_SIZE = 0.01
"""Change below which two figures are called the same, however sure it is: each side's histogram is true to 0.1 %,
and 0.1 ms of the client's timers is 1 % of a gap of 10 ms."""
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
    found = [_or_the_same(it, min(_NO_SIZE, allowed)) for it in found]
    regressions = tuple(
        it.name
        for it in found
        if it.judged and it.direction == "worse" and (it.change is None or abs(it.change) > allowed)
    )
    used = (base, other) if rounds else (base[:1], other[:1])
    unbelieved = _unbelieved([run for side in used for run in side])
    return Comparison(
        base=tuple(run.run for run in used[0]),
        other=tuple(run.run for run in used[1]),
        by="rounds" if rounds else "requests",
        allowed=allowed,
        differences=tuple(found),
        regressions=regressions,
        remarks=tuple(_remarks(base, other, rounds=rounds)),
        believed=unbelieved is None,
        unbelieved=unbelieved,
    )


def _unbelieved(runs: Sequence[RunResult]) -> Unbelieved | None:
    causes = {fault_of(run.verdict.reasons) for run in runs} - {None}
    if causes - {"server"}:
        return "client"
    if not all(run.complete for run in runs):
        return "incomplete"
    return "server" if causes else None


def _by_requests(base: RunResult, other: RunResult) -> list[Difference]:
    chance = np.random.default_rng(_SEED)
    found = []
    for name, percent in _LATENCIES:
        if (name in base.histograms) != (name in other.histograms):
            exact_or_none = [
                _latency(run, name, percent) if name in run.histograms else None for run in (base, other)
            ]
            found.append(_one_sided(f"{name} p{percent}", "ms", exact_or_none))
        elif name in base.histograms:
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
    if (exact[0] > 0) != (exact[1] > 0):
        found.append(_one_sided("output tok/s", "", exact))
    elif rates[0] is not None and rates[1] is not None and exact[0] > 0:
        found.append(_drawn("output tok/s", "", exact, rates[1] / rates[0] - 1, higher_is_better=True))
    shares = [run.figures.goodput.share for run in (base, other)]
    if bool(shares[0]) != bool(shares[1]):
        found.append(_one_sided("goodput", "", shares))
    elif shares[0] and shares[1]:
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


def _or_the_same(it: Difference, least: float) -> Difference:
    """The difference, called none where it is smaller than ``least``."""
    if it.low is None or it.change is None or abs(it.change) >= least:
        return it
    return it.model_copy(update={"direction": "no difference"})


def _one_sided(name: str, unit: str, sides: Sequence[float | None]) -> Difference:
    """A figure that one side does not have, or that is 0 there: more than chance, and of no size."""
    base, other = sides
    return Difference(
        name=name,
        unit=unit,
        base=base,
        other=other,
        change=other / base - 1 if base and other is not None else None,
        low=None,
        high=None,
        direction="worse" if base else "better",
        judged=True,
    )


def _by_rounds(base: Sequence[RunResult], other: Sequence[RunResult]) -> list[Difference]:
    found = []
    for name, percent in _LATENCIES:
        sides = [
            [_latency(run, name, percent) for run in side if name in run.figures.latencies]
            for side in (base, other)
        ]
        label, lacks = f"{name} p{percent}", [len(sides[0]) < len(base), len(sides[1]) < len(other)]
        if lacks[0] != lacks[1]:
            means = [None if lack else _geometric(side) for lack, side in zip(lacks, sides, strict=True)]
            found.append(_one_sided(label, "ms", means))
        else:
            found += _rounds(label, "ms", sides, higher_is_better=False)
    for label, sides in (
        (
            "output tok/s",
            [[run.figures.steady.output_tokens_per_second for run in it] for it in (base, other)],
        ),
        ("goodput", [[run.figures.goodput.share or 0.0 for run in it] for it in (base, other)]),
    ):
        nothing = [min(side) <= 0 for side in sides]
        if nothing[0] != nothing[1]:
            # A round without anything has no logarithm, and is none of the rounds that the other side has.
            found.append(
                _one_sided(
                    label,
                    "",
                    [0.0 if none else _geometric(side) for none, side in zip(nothing, sides, strict=True)],
                )
            )
        else:
            found += _rounds(label, "", sides, higher_is_better=True)
    return found


def _rounds(
    name: str, unit: str, sides: Sequence[Sequence[float]], *, higher_is_better: bool
) -> list[Difference]:
    """None where a side has too few runs with that figure, or one of them is 0: it has no logarithm."""
    if any(len(side) < _FEWEST_ROUNDS or min(side) <= 0 for side in sides):
        return []
    exact = [_geometric(side) for side in sides]
    interval = log_ratio_interval(sides[0], sides[1])
    return [_difference(name, unit, exact, interval, judged=True, higher_is_better=higher_is_better)]


def _geometric(values: Sequence[float]) -> float:
    """The geometric mean; 0 where one of them is."""
    if min(values) <= 0:
        return 0.0
    return math.exp(sum(math.log(value) for value in values) / len(values))


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
        if len(runs) > 2:
            remarks.append(
                f"there are {len(base)} runs of base and {len(other)} of other, and rounds are compared from "
                f"{_FEWEST_ROUNDS} a side on: only {base[0].run} and {other[0].run} are used"
            )
        remarks.append(
            "one run a side: what differs from run to run of the same server is not in the intervals; "
            f"repeat each at least {_FEWEST_ROUNDS} times (load run --repeat)"
        )
    return remarks
