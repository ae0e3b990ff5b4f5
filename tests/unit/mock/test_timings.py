"""Times of requests, as vLLM's histograms show them."""

from __future__ import annotations

from tri_serve.mock.stats import Stats
from tri_serve.mock.timings import Histogram, RequestTimes


def test_buckets_are_cumulative_and_a_bound_is_inside() -> None:
    histogram = Histogram((0.1, 0.5))
    for seconds in (0.05, 0.1, 0.3, 2.0):
        histogram.add(seconds)
    assert list(histogram.lines("x", 'engine="0"', "Some."))[2:] == [
        'x_bucket{engine="0",le="0.1"} 2.0',
        'x_bucket{engine="0",le="0.5"} 3.0',
        'x_bucket{engine="0",le="+Inf"} 4.0',
        'x_count{engine="0"} 4.0',
        'x_sum{engine="0"} 2.45',
    ]


def test_the_first_token_counts_at_once_and_prefill_at_the_end() -> None:
    stats = Stats()
    now = [7.25]
    times = RequestTimes(stats, arrival=7.0, tokens=3, clock=lambda: now[0])
    times.token()
    assert 'vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 0.25' in stats.metrics("m")
    now[0] = 9.0
    times.token()
    assert 'vllm:request_prefill_time_seconds_count{engine="0",model_name="m"} 0.0' in stats.metrics("m")
    times.token()
    page = stats.metrics("m")
    assert 'vllm:request_prefill_time_seconds_sum{engine="0",model_name="m"} 0.25' in page
    assert 'vllm:request_queue_time_seconds_bucket{engine="0",model_name="m",le="0.3"} 1.0' in page
    assert 'vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 1.0' in page
    assert stats.generation_tokens == 3
