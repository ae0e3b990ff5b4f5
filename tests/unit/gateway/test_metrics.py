"""Counting in workers, adding up in the first process."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families

from tri_serve.gateway.config import GatewayConfig
from tri_serve.gateway.exposition import GatewayCollector, exposition
from tri_serve.gateway.metrics import Histogram, Totals, WorkerMetrics
from tri_serve.gateway.roster import Roster
from tri_serve.gateway.workers import Workers
from tri_serve.observe import names


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram()
    for seconds in (0.001, 0.0011, 700.0):
        histogram.observe(seconds)
    assert histogram.counts[0] == 1
    assert histogram.counts[1] == 1
    assert histogram.counts[-1] == 1


def counted() -> WorkerMetrics:
    metrics = WorkerMetrics()
    metrics.events = 5
    metrics.requests[("chat_completions", "200")] += 2
    metrics.count(names.RETRIES, "closed")
    metrics.durations["chat_completions"].observe(0.02)
    return metrics


def test_snapshots_survive_json_and_add_up() -> None:
    totals = Totals()
    for _ in range(3):
        totals.add(json.loads(json.dumps(counted().snapshot())))
    assert totals.counters[names.EVENTS.name][()] == 15
    assert totals.counters[names.REQUESTS.name][("chat_completions", "200")] == 6
    assert sum(totals.histograms[names.REQUEST_SECONDS.name][("chat_completions",)].counts) == 3


def test_adding_to_a_copy_leaves_the_original() -> None:
    totals = Totals()
    totals.add(counted().snapshot())
    totals.copy().add(counted().snapshot())
    assert totals.counters[names.EVENTS.name][()] == 5
    assert sum(totals.histograms[names.REQUEST_SECONDS.name][("chat_completions",)].counts) == 1


def test_what_is_served_is_exactly_the_catalogue() -> None:
    roster = Roster(lambda: None)
    config = GatewayConfig.model_validate(
        {"release": "test", "served_models": ("m",), "admin_socket": "/nonexistent"}, strict=False
    )
    workers = Workers(config, 0, roster)
    workers.departed.add(counted().snapshot())
    text = exposition(GatewayCollector(workers, roster)).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {metric.name for metric in names.GATEWAY}
    for metric in names.GATEWAY:
        assert families[metric.name].type == metric.kind
        assert families[metric.name].documentation == metric.meaning
    (sample,) = [s for s in families[names.EVENTS.name].samples if s.name.endswith("_total")]
    assert sample.value == 5
