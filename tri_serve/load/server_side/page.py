"""A /metrics page in Prometheus' text format: the wanted samples of it, added up over label sets.

vLLM's page has 100 to 300 kB; only lines that are wanted are parsed.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tri_serve.observe.names import Metric

_BOUND = re.compile(rb'[{,]le="([^"]{1,64})"')


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram: its sum, its count, and for each upper bound how many samples are at or under it."""

    total: float
    count: float
    cumulative: Mapping[float, float]

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count > 0 else None

    def percentile(self, share: float) -> float | None:
        """Where ``share`` (0 to 1) of the samples is reached, evenly within a bucket, as Prometheus' own
        ``histogram_quantile`` has it; the last finite bound for what is above it. None without samples."""
        bounds = sorted(self.cumulative)
        if self.count <= 0 or not bounds:
            return None
        wanted, below, under = share * self.count, 0.0, 0.0
        for bound in bounds:
            reached = self.cumulative[bound]
            if reached >= wanted:
                if math.isinf(bound):
                    return below
                return below + (bound - below) * (wanted - under) / max(reached - under, 1e-12)
            below, under = (below if math.isinf(bound) else bound), reached
        return below

    def __add__(self, other: Buckets) -> Buckets:
        """Both together. Of bounds that only one of them has nothing can be said for both: these are dropped."""
        common = self.cumulative.keys() & other.cumulative.keys()
        together = {bound: self.cumulative[bound] + other.cumulative[bound] for bound in common}
        return Buckets(self.total + other.total, self.count + other.count, together)

    def __sub__(self, earlier: Buckets) -> Buckets:
        """What came since ``earlier``."""
        since = {
            bound: count - earlier.cumulative.get(bound, 0.0) for bound, count in self.cumulative.items()
        }
        return Buckets(self.total - earlier.total, self.count - earlier.count, since)


@dataclass(frozen=True, slots=True)
class Page:
    """The wanted metrics of one page by their name in the catalogue; one that is not on the page is not in here."""

    counters: Mapping[str, float]
    gauges: Mapping[str, tuple[float, ...]]
    """A value for each label set."""
    histograms: Mapping[str, Buckets]

    def __bool__(self) -> bool:
        return bool(self.counters or self.gauges or self.histograms)


def parse_page(text: bytes, wanted: Iterable[Metric]) -> Page:
    """Raises ValueError, with the series' name, at a wanted sample without a number."""
    text = b"\n" + text
    counters: dict[str, float] = {}
    gauges: dict[str, tuple[float, ...]] = {}
    histograms: dict[str, Buckets] = {}
    for metric in wanted:
        if metric.kind == "histogram":
            histogram = _histogram(text, metric.name)
            if histogram is not None:
                histograms[metric.name] = histogram
            continue
        values = tuple(value for _, value in _samples(text, metric.series))
        if values and metric.kind == "counter":
            counters[metric.name] = sum(values)
        elif values:
            gauges[metric.name] = values
    return Page(counters, gauges, histograms)


def _histogram(text: bytes, name: str) -> Buckets | None:
    counts = [value for _, value in _samples(text, f"{name}_count")]
    if not counts:
        return None
    cumulative: dict[float, float] = {}
    for labels, value in _samples(text, f"{name}_bucket"):
        bound = _BOUND.search(labels)
        if bound is None:
            raise ValueError(f"a bucket of {name} has no bound")
        upper = float(bound[1])
        cumulative[upper] = cumulative.get(upper, 0.0) + value
    total = sum(value for _, value in _samples(text, f"{name}_sum"))
    return Buckets(total, sum(counts), cumulative)


def _samples(text: bytes, series: str) -> Iterator[tuple[bytes, float]]:
    """Labels and value of each sample."""
    head = b"\n" + series.encode()
    position = text.find(head)
    while position >= 0:
        after = position + len(head)
        end = text.find(b"\n", after)
        end = len(text) if end < 0 else end
        line = text[after:end]
        if line[:1] in (b"{", b" "):  # else another name that begins alike
            cut = (
                line.rfind(b"}") + 1
            )  # a label's value may hold a brace; behind the last: value, perhaps a time
            words = line[cut:].split()
            try:
                value = float(words[0]) if words else math.nan
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise ValueError(f"a sample of {series} has no number")
            yield line[:cut], value
        position = text.find(head, end)
