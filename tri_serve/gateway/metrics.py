"""What a worker counts: plain numbers, no locks, no labels objects; and how the first process adds them up."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from typing import TypedDict

from tri_serve.observe import names


class Histogram:
    """Counts by bucket (the last one is +Inf) and a sum, in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self, counts: Iterable[int] | None = None, total: float = 0.0) -> None:
        self.counts = list(counts) if counts is not None else [0] * (len(names.LATENCY_BUCKETS) + 1)
        self.total = total

    def observe(self, seconds: float) -> None:
        """Count one value; a bucket's bound belongs to it, as Prometheus has it."""
        self.counts[bisect_left(names.LATENCY_BUCKETS, seconds)] += 1
        self.total += seconds


class Snapshot(TypedDict):
    """A worker's counts as JSON: metric name → list of (label values, value)."""

    counters: dict[str, list[tuple[list[str], float]]]
    histograms: dict[str, list[tuple[list[str], list[int], float]]]


class WorkerMetrics:
    """One worker's counters since it started."""

    def __init__(self) -> None:
        self.events = 0
        self.counters: dict[str, defaultdict[tuple[str, ...], int]] = {
            metric.name: defaultdict(int)
            for metric in names.GATEWAY
            if metric.kind == "counter" and metric not in (names.EVENTS, names.WORKER_RESTARTS)
        }
        self.requests = self.counters[names.REQUESTS.name]
        self.durations: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.first_events: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.holds: defaultdict[str, Histogram] = defaultdict(Histogram)

    def count(self, metric: names.Metric, *labels: str) -> None:
        """One more of ``metric``."""
        self.counters[metric.name][labels] += 1

    def snapshot(self) -> Snapshot:
        """Everything, ready for JSON."""
        counters = {
            name: [(list(labels), float(value)) for labels, value in values.items()]
            for name, values in self.counters.items()
        }
        counters[names.EVENTS.name] = [([], float(self.events))]
        histograms = {
            metric.name: [([label], list(h.counts), h.total) for label, h in values.items()]
            for metric, values in (
                (names.REQUEST_SECONDS, self.durations),
                (names.FIRST_EVENT_SECONDS, self.first_events),
                (names.HOLD_SECONDS, self.holds),
            )
        }
        return {"counters": counters, "histograms": histograms}


class Totals:
    """Snapshots of all workers, dead ones included, added up: a counter never goes back when a worker dies."""

    def __init__(self) -> None:
        self.counters: defaultdict[str, defaultdict[tuple[str, ...], float]] = defaultdict(
            lambda: defaultdict(float)
        )
        self.histograms: defaultdict[str, dict[tuple[str, ...], Histogram]] = defaultdict(dict)

    def add(self, snapshot: Snapshot) -> None:
        """Add one worker's counts."""
        for name, values in snapshot["counters"].items():
            for labels, value in values:
                self.counters[name][tuple(labels)] += value
        for name, series in snapshot["histograms"].items():
            for labels, counts, total in series:
                mine = self.histograms[name].setdefault(tuple(labels), Histogram())
                mine.counts = [a + b for a, b in zip(mine.counts, counts, strict=True)]
                mine.total += total

    def copy(self) -> Totals:
        """A copy to add live workers to."""
        twin = Totals()
        for name, values in self.counters.items():
            twin.counters[name].update(values)
        for name, series in self.histograms.items():
            twin.histograms[name] = {labels: Histogram(h.counts, h.total) for labels, h in series.items()}
        return twin
