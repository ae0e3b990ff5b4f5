"""What is taken from a metrics page."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client import Histogram as PrometheusHistogram

from tri_serve.load.server_side.page import Buckets, parse_page
from tri_serve.mock.stats import Stats
from tri_serve.observe import names

# Lines as prometheus-client writes them for vLLM 0.32's metrics, of two data-parallel ranks.
PAGE = b"""\
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="a}b \\"c\\" 7"} 1200.0
vllm:generation_tokens_total{engine="1",model_name="a}b \\"c\\" 7"} 300.0
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.5",model_name="m"} 6.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 8.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 8.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 4.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1",model_name="m"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.5",model_name="m"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf",model_name="m"} 2.0
vllm:time_to_first_token_seconds_count{engine="1",model_name="m"} 2.0
vllm:time_to_first_token_seconds_sum{engine="1",model_name="m"} 0.1
process_start_time_seconds 1.79e+09"""


def test_counters_are_added_over_ranks_and_gauges_kept_apart() -> None:
    page = parse_page(PAGE, names.ENGINE_UNDER_LOAD)
    assert page.counters == {"vllm:generation_tokens": 1_500}
    assert page.gauges == {
        "vllm:kv_cache_usage_perc": (0.25, 0.75),
        "process_start_time_seconds": (1.79e9,),
    }


def test_a_histogram_is_added_over_ranks_bucket_by_bucket() -> None:
    ttft = parse_page(PAGE, names.ENGINE_UNDER_LOAD).histograms["vllm:time_to_first_token_seconds"]
    assert ttft == Buckets(4.1, 10, {0.1: 4, 0.5: 8, float("inf"): 10})
    assert ttft.mean == pytest.approx(0.41)


@pytest.mark.parametrize(("share", "seconds"), [(0.2, 0.05), (0.4, 0.1), (0.6, 0.3), (0.8, 0.5), (0.99, 0.5)])
def test_percentiles_are_those_of_histogram_quantile(share: float, seconds: float) -> None:
    ttft = parse_page(PAGE, names.ENGINE_UNDER_LOAD).histograms["vllm:time_to_first_token_seconds"]
    assert ttft.percentile(share) == pytest.approx(seconds)


def test_an_empty_histogram_has_neither_mean_nor_percentile() -> None:
    assert Buckets(0, 0, {1.0: 0}).mean is None
    assert Buckets(0, 0, {1.0: 0}).percentile(0.5) is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "", "many"])
def test_a_wanted_sample_without_a_number_is_an_error_that_names_it(value: str) -> None:
    text = PAGE.replace(b"} 300.0", f"}} {value}".encode())
    with pytest.raises(ValueError, match="vllm:generation_tokens_total"):
        parse_page(text, names.ENGINE_UNDER_LOAD)


def test_a_bucket_without_a_bound_is_an_error() -> None:
    with pytest.raises(ValueError, match="no bound"):
        parse_page(PAGE.replace(b'le="0.1",', b""), names.ENGINE_UNDER_LOAD)


def test_another_page_holds_nothing() -> None:
    assert not parse_page(
        b"sglang:num_running_reqs 3\nvllm:generation_tokens_totally 4", names.ENGINE_UNDER_LOAD
    )


def test_the_mock_engine_is_read_like_an_engine() -> None:
    page = parse_page(Stats(running=3, generation_tokens=70).metrics("m").encode(), names.ENGINE_UNDER_LOAD)
    assert page.counters["vllm:generation_tokens"] == 70
    assert page.gauges["vllm:num_requests_running"] == (3,)


def test_what_came_between_two_pages_is_their_difference() -> None:
    before = Buckets(1.0, 4, {0.1: 4, float("inf"): 4})
    after = Buckets(3.0, 8, {0.1: 6, 0.5: 7, float("inf"): 8})
    assert after - before == Buckets(2.0, 4, {0.1: 2, 0.5: 7, float("inf"): 4})


def test_a_page_that_prometheus_own_client_wrote_is_read() -> None:
    registry = CollectorRegistry()
    labels = ["model_name", "engine"]  # as vLLM 0.32 has them
    seconds = PrometheusHistogram(
        "vllm:request_queue_time_seconds", "Time.", labels, buckets=(0.3, 0.5, 10.0), registry=registry
    )
    tokens = Counter("vllm:generation_tokens", "Tokens.", labels, registry=registry)
    finished = Counter("vllm:request_success", "Requests.", [*labels, "finished_reason"], registry=registry)
    running = Gauge("vllm:num_requests_running", "Requests.", labels, registry=registry)
    for engine in ("0", "1"):
        seconds.labels('a"model', engine).observe(0.4)
        seconds.labels('a"model', engine).observe(20)
        tokens.labels('a"model', engine).inc(1_000_000)
        finished.labels('a"model', engine, "stop").inc()
        running.labels('a"model', engine).set(3)
    page = parse_page(generate_latest(registry), names.ENGINE_UNDER_LOAD)
    assert page.counters == {"vllm:generation_tokens": 2_000_000, "vllm:request_success": 2}
    assert page.gauges == {"vllm:num_requests_running": (3, 3)}
    assert page.histograms["vllm:request_queue_time_seconds"] == Buckets(
        40.8, 4, {0.3: 0, 0.5: 2, 10.0: 2, float("inf"): 4}
    )
