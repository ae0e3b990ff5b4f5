"""Times of requests as vLLM's histograms show them."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .stats import Stats

# Of vLLM 0.32 (vllm/v1/metrics/buckets.py).
TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
LATENCY_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip


class Histogram:
    """Counts of durations in seconds, by bucket."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """One duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, label: str, meaning: str) -> Iterator[str]:
        """In Prometheus' text format."""
        yield f"# HELP {name} {meaning}"
        yield f"# TYPE {name} histogram"
        cumulative = list(accumulate(self._counts))
        for bound, count in zip((*map(str, self._bounds), "+Inf"), cumulative, strict=True):
            yield f'{name}_bucket{{{label},le="{bound}"}} {float(count)}'
        yield f"{name}_count{{{label}}} {float(cumulative[-1])}"
        yield f"{name}_sum{{{label}}} {self.total}"


class RequestTimes:
    """Of one streamed answer of ``tokens`` tokens that was asked for at ``arrival`` (monotonic seconds).

    As vLLM does, the first token counts when it is made, queue and prefill when the answer has ended. Nothing
    queues here: all of the time to the first token is prefill.
    """

    __slots__ = ("_arrival", "_clock", "_left", "_stats", "_ttft", "_whole")

    def __init__(
        self, stats: Stats, arrival: float, tokens: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stats = stats
        self._arrival = arrival
        self._clock = clock
        self._left = self._whole = tokens
        self._ttft = 0.0

    def token(self) -> None:
        """A token was made, in a step of its own."""
        stats = self._stats
        stats.generation_tokens += 1
        stats.iterations += 1
        if self._left == self._whole:
            self._ttft = self._clock() - self._arrival
            stats.first_token_seconds.add(self._ttft)
        self._left -= 1
        if not self._left:
            stats.queue_seconds.add(0.0)
            stats.prefill_seconds.add(self._ttft)
