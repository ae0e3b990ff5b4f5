"""From what processes and servers reported to what is held against a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from tri_serve.load.figures.collector import Collector, Window
from tri_serve.load.figures.summary import summarise
from tri_serve.load.server_side.page import Buckets, Page
from tri_serve.load.server_side.scrape import History, Snapshot, Source
from tri_serve.load.swarm import report
from tri_serve.load.swarm.leader import Gathered
from tri_serve.spec.slo import Slo

S = 10**9
ENGINE = Source("replica-0", "engine", "http://127.0.0.1:2/metrics")


def page(ttft_sum: float, count: int) -> Page:
    histogram = Buckets(ttft_sum, count, {float("inf"): count})
    return Page(counters={}, gauges={}, histograms={"vllm:time_to_first_token_seconds": histogram})


def test_the_engines_ttft_is_of_the_time_that_the_clients_is_of() -> None:
    # Ten first tokens within the window, at 90 ms; ten after it, at 900 ms, of requests that waited.
    pages = [page(0.0, 0), page(0.0, 0), page(0.9, 10), page(9.9, 20)]
    seen = History(
        (ENGINE,), [Snapshot(at * S, {"replica-0": one}) for at, one in enumerate(pages)], rounds=4
    )
    collector = Collector(Window(S, 2 * S), Slo())
    scenario = SimpleNamespace(warm_up=0.0, cool_down=0.0)
    shares = [{"tokens": 0, "cancelled": 0}]
    gathered = cast(Gathered, SimpleNamespace(order=SimpleNamespace(scenario=scenario), shares=shares))
    _, found = report._server_side(gathered, collector, summarise(collector), seen)
    assert found["ttft_server_ms"] == pytest.approx(90)
