"""What paired rounds of two clients say of each figure: the difference, its 95 % interval (Student's t) and a word.

Of a real engine no round is like the one before, so that an interval cannot be asked to lie within what two timers
may differ by. What is asked is that it holds 0, and that it is narrow enough for that to say something.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.gateway.intervals import Interval, of_differences
from benchmarks.load.agreement import (
    EXACT,
    KEYS,
    MOST_DIFFERENCE_MS,
    MOST_DURATION_MS,
    PEAKS,
    RATES,
    TOTALS,
)

LEAST_ROUNDS = 5
WIDEST = 0.05
"""Of a figure: an interval that holds 0 and reaches further to a side leaves room for a difference that matters."""
WRITTEN = " written"
"""Ends the names of figures that are counted from when the request was written, by both clients."""
SUMMARIES = ("mean", "median", "std", "p99")
FROM_WRITTEN = tuple(f"{summary}_{name}_ms{WRITTEN}" for name in ("ttft", "e2el") for summary in SUMMARIES)
NAMES = (*TOTALS, *KEYS, *FROM_WRITTEN)
EARLIER = "vLLM's clock starts before it has a connection; from the written request on, both agree"

Word = Literal["agrees", "by definition", "differs", "not said"]


@dataclass(frozen=True, slots=True)
class Line:
    """One figure over all rounds; differences are ours less theirs."""

    name: str
    ours: float
    vllm: float
    ours_sd: float
    """Standard deviation over the rounds; 0 of a single one."""
    vllm_sd: float
    mean: float
    low: float | None
    high: float | None
    """Of the 95 % interval; None of a single round."""
    allowed: float
    word: Word
    why: str
    promised: bool
    """Whether the exit code depends on it."""


def promised(name: str) -> bool:
    """Counts, totals, means and medians are. Tails and peaks hang on single requests: they have a word, no more."""
    tail = name.startswith(("std", "p99"))
    return not tail and name not in PEAKS


def allowed(name: str, size: float, seconds: float) -> float:
    """How far a figure may be off whatever its interval: 0 for counts, else the clocks' and the print's grain.

    ``size`` is the figure's own, ``seconds`` a round's duration.
    """
    if name in EXACT:
        return 0.0
    if name == "duration":
        return MOST_DURATION_MS / 1000
    if name in RATES:  # as far as durations may differ
        return size * MOST_DURATION_MS / 1000 / seconds
    return PEAKS.get(name, MOST_DIFFERENCE_MS)


def judged(differences: Sequence[float], size: float, most: float) -> tuple[Word, str]:
    """A word for one figure, and why; ``most`` is what it may be off, 0 for a count, which noise never excuses."""
    if not most:
        return ("differs", "a count") if any(differences) else ("agrees", "")
    if len(differences) < LEAST_ROUNDS:
        return "not said", f"fewer than {LEAST_ROUNDS} rounds"
    it = of_differences(differences)
    if -most <= it.low and it.high <= most:
        return "agrees", ""
    if _holds_zero(it):
        if max(-it.low, it.high) <= max(most, WIDEST * size):
            return "agrees", ""
        return "not said", f"the interval is wider than {WIDEST:.0%} of the figure"
    if it.low > most or it.high < -most:
        return "differs", ""
    return "not said", "the interval is partly within what is allowed"


def compared(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> list[Line]:
    """A line for every figure. TTFT and E2EL that are shorter here are so by definition where the same figure,
    counted from the written request, agrees."""
    seconds = statistics.fmean(one["duration"] for one in theirs)
    lines: dict[str, Line] = {}
    # Those that others are explained by come first.
    for name in (*FROM_WRITTEN, *TOTALS, *KEYS):
        pairs = [(one[name], other[name]) for one, other in zip(ours, theirs, strict=True)]
        size = max(abs(statistics.fmean(pair[side] for pair in pairs)) for side in (0, 1))
        most = allowed(name, size, seconds)
        differences = [one - other for one, other in pairs]
        it = of_differences(differences)
        word, why = judged(differences, size, most)
        explained = lines.get(name + WRITTEN)
        if word == "differs" and it.high < 0 and explained is not None and explained.word != "differs":
            told = explained.word == "agrees"
            word, why = (
                ("by definition", EARLIER) if told else ("not said", "nor from the written request on")
            )
        mine, others = ([pair[side] for pair in pairs] for side in (0, 1))
        lines[name] = Line(
            name=name,
            ours=statistics.fmean(mine),
            vllm=statistics.fmean(others),
            ours_sd=_deviation(mine),
            vllm_sd=_deviation(others),
            mean=it.mean,
            low=_bound(it.low),
            high=_bound(it.high),
            allowed=most,
            word=word,
            why=why,
            promised=promised(name),
        )
    return [lines[name] for name in NAMES]


def exit_code(lines: Sequence[Line]) -> int:
    """1: a promised figure differs; 2: none does, and of one nothing can be said."""
    words = {line.word for line in lines if line.promised}
    return 1 if "differs" in words else 2 if "not said" in words else 0


def table(lines: Sequence[Line]) -> str:
    """As it is printed; an asterisk marks a figure that the exit code does not depend on."""
    rows = [f"{'figure':<26} {'ours':>11} {'vllm':>11} {'ours-vllm':>10} {'95% interval':>21} {'allowed':>8}"]
    for line in lines:
        name = line.name if line.promised else line.name + " *"
        span = "–" if line.low is None else f"[{line.low:+.3f}, {line.high:+.3f}]"
        rows.append(
            f"{name:<26} {line.ours:>11.3f} {line.vllm:>11.3f} {line.mean:>+10.3f} {span:>21} "
            f"{line.allowed:>8.3g}  {line.word}{': ' if line.why else ''}{line.why}"
        )
    return "\n".join(rows)


def _holds_zero(it: Interval) -> bool:
    return it.low <= 0 <= it.high


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _bound(value: float) -> float | None:
    return None if math.isnan(value) else value
