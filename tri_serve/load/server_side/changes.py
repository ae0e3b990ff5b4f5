"""What one source counted between two moments of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tri_serve.load.server_side.page import Buckets, Page
from tri_serve.load.server_side.scrape import History, Snapshot
from tri_serve.observe.names import Metric


@dataclass(frozen=True, slots=True)
class Span:
    """Two moments on CLOCK_MONOTONIC, in ns."""

    begin: int
    end: int

    @property
    def halves(self) -> tuple[Span, Span]:
        middle = (self.begin + self.end) // 2
        return Span(self.begin, middle), Span(middle, self.end)


@dataclass(frozen=True, slots=True)
class Change:
    """Of one source: its page at the begin of a span and that at its end, from the snapshots nearest to them."""

    before: Page
    after: Page
    between: tuple[Page, ...]
    """All pages of the span, both ends included, for gauges."""

    def counted(self, metric: Metric) -> int | None:
        """What the counter went up by; None if the source has no such counter."""
        if metric.name not in self.after.counters:
            return None
        return round(self.after.counters[metric.name] - self.before.counters.get(metric.name, 0.0))

    def histogram(self, metric: Metric) -> Buckets | None:
        """The samples of the span; None if there are none."""
        after = self.after.histograms.get(metric.name)
        if after is None:
            return None
        before = self.before.histograms.get(metric.name)
        since = after if before is None else after - before
        return since if since.count > 0 else None

    def mean_ms(self, metric: Metric) -> float | None:
        return milliseconds(self.histogram(metric), lambda samples: samples.mean)

    def p99_ms(self, metric: Metric) -> float | None:
        return milliseconds(self.histogram(metric), lambda samples: samples.percentile(0.99))

    def gauge(self, metric: Metric, over_ranks: Callable[[tuple[float, ...]], float]) -> list[float]:
        """A value for each page of the span that has the gauge."""
        pages = (page.gauges.get(metric.name) for page in self.between)
        return [over_ranks(values) for values in pages if values]


def milliseconds(samples: Buckets | None, figure: Callable[[Buckets], float | None]) -> float | None:
    """A figure of a histogram of seconds."""
    seconds = figure(samples) if samples is not None else None
    return None if seconds is None else seconds * 1_000


def change(history: History, name: str, span: Span) -> Change | None:
    """None if the source ``name`` did not answer at two moments that lie at least half of the span apart."""
    having = [one for one in history.snapshots if name in one.pages]
    if len(having) < 2:
        return None
    first = min(having, key=lambda one: abs(one.at - span.begin))
    last = min(having, key=lambda one: abs(one.at - span.end))
    if 2 * (last.at - first.at) < span.end - span.begin or first is last:
        return None
    between = tuple(one.pages[name] for one in _within(having, first, last))
    return Change(between[0], between[-1], between)


def _within(snapshots: list[Snapshot], first: Snapshot, last: Snapshot) -> Iterator[Snapshot]:
    return (one for one in snapshots if first.at <= one.at <= last.at)


def whole(history: History) -> Span:
    """From the first snapshot to the last. Raises ValueError without any."""
    if not history.snapshots:
        raise ValueError("nothing was read")
    return Span(history.snapshots[0].at, history.snapshots[-1].at)


def together(parts: list[Buckets | None]) -> Buckets | None:
    """Histograms of several engines as one; None if there is none."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    total = found[0]
    for part in found[1:]:
        total = total + part
    return total
