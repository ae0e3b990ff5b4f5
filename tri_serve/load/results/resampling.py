"""How far a figure could have been another one: resampled requests, blocks of time, or whole runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tri_serve.load.figures.histogram import Histogram
from tri_serve.load.figures.model import Figures, Goodput

DRAWS = 1_000
"""Of a bootstrap: each end of a 95 % interval then has 25 draws beyond it."""
_AT_ONCE = 100
"""Draws that are made together: a few MB for the widest histogram."""

Floats = npt.NDArray[np.float64]

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""97.5 % points of Student's t by degrees of freedom, from 1 on; beyond 20 the last one is taken (1.96 at ∞)."""


def latency_draws(encoded: str, percent: float, chance: np.random.Generator) -> Floats:
    """The percentile of as many requests drawn anew from a histogram, ``DRAWS`` times, in ns.

    Drawing from its counters is drawing from the requests, true to 0.1 %.
    """
    values, counts = Histogram.decode(encoded).buckets()
    total = int(counts.sum())
    rank = max(1, math.ceil(percent / 100 * total))
    found = []
    for _ in range(DRAWS // _AT_ONCE):
        drawn = chance.multinomial(total, counts / total, size=_AT_ONCE)
        found.append(values[(np.cumsum(drawn, axis=1) >= rank).argmax(axis=1)])
    return np.concatenate(found)


def token_rate_draws(figures: Figures, chance: np.random.Generator) -> Floats | None:
    """Output tokens a slot of the window, drawn anew in blocks: a slot depends on the one before.

    A block is as long as two answers. None where the window has fewer than four blocks.
    """
    tokens = np.array(
        [
            slot.output_tokens
            for slot in figures.slots
            if 0 <= slot.at <= figures.window_seconds - figures.slot_seconds
        ]
    )
    answer = figures.latencies["e2e"].mean / 1000 if "e2e" in figures.latencies else 0.0
    block = max(1, math.ceil(2 * answer / figures.slot_seconds))
    blocks = len(tokens) // block
    if blocks < 4 or not tokens.any():
        return None
    sums = np.convolve(tokens, np.ones(block), mode="valid")
    picked = chance.integers(0, len(sums), size=(DRAWS, blocks))
    # No draw may divide by nothing.
    rates: Floats = np.maximum(sums[picked].mean(axis=1) / block, 1e-9)
    return rates


def goodput_draws(goodput: Goodput, chance: np.random.Generator) -> Floats:
    """Shares of good requests among as many drawn anew, with half a request more of each kind (Jeffreys)."""
    return chance.beta(goodput.good + 0.5, goodput.of - goodput.good + 0.5, size=DRAWS)


def log_ratio_interval(base: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """95 % interval of (geometric mean of ``other`` ÷ that of ``base``) − 1: Welch's t on logarithms.

    Takes two or more positive numbers a side. Degrees of freedom after Welch and Satterthwaite, rounded down.
    """
    one, two = (np.log(np.asarray(side, dtype=float)) for side in (base, other))
    parts = [side.var(ddof=1) / len(side) for side in (one, two)]
    difference, spread = float(two.mean() - one.mean()), math.sqrt(sum(parts))
    below = sum(part**2 / (len(side) - 1) for part, side in zip(parts, (one, two), strict=True))
    freedom = int(sum(parts) ** 2 / below) if below > 0 else len(one) + len(two) - 2
    reach = _T_975[min(max(freedom, 1), len(_T_975)) - 1] * spread
    return math.expm1(difference - reach), math.expm1(difference + reach)
