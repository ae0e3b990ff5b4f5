"""The gateway's metrics for Prometheus: the workers' counts added up, and what the first process knows itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from tri_serve import __version__
from tri_serve.gateway.metrics import Histogram, Totals
from tri_serve.gateway.roster import Roster
from tri_serve.gateway.workers import Workers
from tri_serve.observe import names


class GatewayCollector:
    """What prometheus-client asks at every scrape."""

    def __init__(self, workers: Workers, roster: Roster) -> None:
        self._workers = workers
        self._roster = roster

    def collect(self) -> Iterator[Metric]:
        """Every metric of the catalogue's gateway part."""
        totals = self._workers.departed.copy()
        for process in self._workers.processes:
            if process.last_report:
                totals.add(process.last_report["metrics"])
        totals.counters[names.WORKER_RESTARTS.name][()] = self._workers.restarts
        gauges = self._gauges()
        for metric in names.GATEWAY:
            if metric.kind == "counter":
                yield _counter(metric, totals)
            elif metric.kind == "histogram":
                yield _histogram(metric, totals.histograms[metric.name])
            else:
                family = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in gauges[metric.name].items():
                    family.add_metric(labels, value)
                yield family

    def _gauges(self) -> dict[str, dict[tuple[str, ...], float]]:
        entries = self._roster.entries
        loads = {(entry.address.name,): entry.load for entry in entries if entry.load is not None}
        reports = [process.last_report for process in self._workers.processes if process.last_report]
        in_flight: dict[tuple[str, ...], float] = {(e.address.name,): 0.0 for e in entries}
        for report in reports:
            for name, count in report["in_flight"].items():
                in_flight[(name,)] = in_flight.get((name,), 0.0) + count
        return {
            names.CONNECTIONS.name: {(): float(sum(report["connections"] for report in reports))},
            names.IN_FLIGHT.name: in_flight,
            names.REPLICA_READY.name: {(e.address.name,): float(e.ready) for e in entries},
            names.REPLICA_RUNNING.name: {name: float(load.running) for name, load in loads.items()},
            names.REPLICA_WAITING.name: {name: float(load.waiting) for name, load in loads.items()},
            names.WORKERS.name: {(): float(sum(process.up for process in self._workers.processes))},
            names.LOOP_LAG.name: {(): max((report["loop_lag"] for report in reports), default=0.0)},
            names.BUILD.name: {(__version__,): 1.0},
        }


def _counter(metric: names.Metric, totals: Totals) -> Metric:
    family = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    values = totals.counters[metric.name]
    if not metric.labels:
        # A counter that has not counted yet is 0, not absent: alerts compare with what was before.
        values.setdefault((), 0.0)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: names.Metric, series: dict[tuple[str, ...], Histogram]) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
    for labels, histogram in series.items():
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric(labels, buckets=buckets, sum_value=histogram.total)
    return family


def exposition(collector: GatewayCollector) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
