"""What a history of pages says of a run."""

from __future__ import annotations

import pytest

from tri_serve.load.results.model import ServerSide
from tri_serve.load.server_side.changes import Span
from tri_serve.load.server_side.page import Buckets, Page
from tri_serve.load.server_side.scrape import History, Snapshot, Source
from tri_serve.load.server_side.summary import (
    ClientSide,
    counted_span,
    describe,
    engine_ttft_ms,
    ttft_drift_ms,
)

S = 10**9
GATEWAY = Source("gateway", "gateway", "http://127.0.0.1:1/metrics")
ENGINES = (
    Source("replica-0", "engine", "http://127.0.0.1:2/metrics"),
    Source("replica-1", "engine", "http://127.0.0.1:3/metrics"),
)


def seconds(total: float, count: float) -> Buckets:
    return Buckets(total, count, {float("inf"): count})


def engine(requests: int, ttft: float = 0.09, tokens: int = 10, usage: float = 0.5, running: int = 1) -> Page:
    """After so many requests, each of the same times."""
    return Page(
        counters={
            "vllm:generation_tokens": float(requests * tokens),
            "vllm:request_success": float(requests),
            "vllm:prefix_cache_queries": requests * 100.0,
            "vllm:prefix_cache_hits": requests * 25.0,
            "vllm:num_preemptions": float(requests // 10),
        },
        gauges={
            "vllm:kv_cache_usage_perc": (usage,),
            "vllm:num_requests_running": (float(running),),
            "vllm:num_requests_waiting": (2.0,),
        },
        histograms={
            "vllm:time_to_first_token_seconds": seconds(requests * ttft, requests),
            "vllm:request_queue_time_seconds": seconds(requests * 0.03, requests),
            "vllm:request_prefill_time_seconds": seconds(requests * 0.05, requests),
        },
    )


def gateway(requests: int) -> Page:
    return Page(
        counters={"tri_gateway_retries": requests / 10},
        gauges={"tri_gateway_loop_lag_seconds": (0.002,)},
        histograms={"tri_gateway_first_event_seconds": seconds(requests * 0.095, requests)},
    )


def history(*rounds: dict[str, Page]) -> History:
    """A round each second from second 0."""
    snapshots = [Snapshot(number * S, pages) for number, pages in enumerate(rounds)]
    return History((GATEWAY, *ENGINES), snapshots, rounds=len(snapshots))


def both(requests: int, **figures: float) -> dict[str, Page]:
    return {
        "gateway": gateway(2 * requests),
        "replica-0": engine(requests, **figures),  # type: ignore[arg-type]
        "replica-1": engine(requests, **figures),  # type: ignore[arg-type]
    }


CLIENT = ClientSide(ttft_mean_ms=100.0, ttft_count=40, output_tokens=800)


def told(seen: History, span: Span, client: ClientSide = CLIENT) -> ServerSide:
    side = describe(seen, span, client)
    assert side is not None
    return side


def test_only_what_came_within_the_span_counts() -> None:
    # Before the window, requests took ten times as long.
    pages = [both(0), both(20, ttft=0.9)]
    after = {
        name: Page(
            page.counters,
            page.gauges,
            {
                "vllm:time_to_first_token_seconds": seconds(20 * 0.9 + 20 * 0.09, 40),
                "vllm:request_queue_time_seconds": seconds(40 * 0.03, 40),
                "vllm:request_prefill_time_seconds": seconds(40 * 0.05, 40),
            }
            if name != "gateway"
            else page.histograms,
        )
        for name, page in both(40).items()
    }
    side = told(history(*pages, after), Span(1 * S, 2 * S))
    parts = {part.name: part.mean_ms for part in side.ttft_split}
    assert parts == pytest.approx({"client": 5, "gateway": 5, "queue": 30, "prefill": 50, "rest": 10})
    assert [one.requests for one in side.engines] == [20, 20]
    assert [one.ttft_mean_ms for one in side.engines] == pytest.approx([90, 90])
    assert side.gateway is not None
    assert (side.gateway.first_event_mean_ms, side.gateway.retries) == (pytest.approx(95), 4)
    assert side.sources == ("gateway", "engine replica-0", "engine replica-1")


def test_gauges_and_cache_figures_are_of_all_engines() -> None:
    side = told(
        history(
            both(0, usage=0.2, running=3), both(20, usage=0.8, running=7), both(40, usage=0.5, running=1)
        ),
        Span(0, 2 * S),
    )
    assert side.kv_use_max == 0.8
    assert side.kv_use_mean == pytest.approx(0.5)
    assert side.prefix_hit_rate == 0.25
    assert side.preemptions == 8
    assert (side.running_max, side.waiting_max) == (14, 4)


def test_tokens_are_compared_over_the_whole_run_and_a_difference_is_explained() -> None:
    rounds = (both(0), both(20), both(40), both(50))
    side = told(history(*rounds), Span(1 * S, 2 * S), ClientSide(100, 40, output_tokens=1_000))
    assert (side.client_tokens, side.server_tokens) == (1_000, 1_000)
    assert not [remark for remark in side.remarks if "tokens" in remark]
    side = told(history(*rounds), Span(1 * S, 2 * S), ClientSide(100, 40, output_tokens=900, cancelled=3))
    assert (
        "1,000 tokens, the client received 900 (100, 10.0% apart): 3 requests were ended" in side.remarks[-1]
    )
    side = told(history(*rounds), Span(1 * S, 2 * S), ClientSide(100, 40, output_tokens=1_100))
    assert "an engine that was not read answered too" in side.remarks[-1]


def test_an_engine_that_could_not_be_read_takes_its_means_out_and_is_named() -> None:
    rounds = [{name: page for name, page in both(n).items() if name != "replica-1"} for n in (0, 20, 40)]
    seen = history(*rounds)
    seen.failures["replica-1"] = (3, "Connection refused")
    side = told(seen, Span(0, 2 * S))
    assert [part.name for part in side.ttft_split] == ["client", "gateway"]
    assert side.server_tokens is None
    assert side.missing == ("engine replica-1: 3 of 3 times, lastly: Connection refused",)
    assert [one.name for one in side.engines] == ["replica-0"]


def test_without_any_page_there_is_no_server_side() -> None:
    assert describe(history({}, {}), Span(0, S), CLIENT) is None


def test_a_restart_is_named() -> None:
    seen = history(both(0), both(20))
    seen.restarts.append((S, "replica-1"))
    side = told(seen, Span(0, S))
    assert side.restarts == ("replica-1",)
    assert [one.restarts for one in side.engines] == [0, 1]


def test_pages_from_too_short_a_part_of_the_span_say_nothing_of_it() -> None:
    rounds = [both(0), both(20), {}, {}, {}, {}]
    assert describe(history(*rounds), Span(0, 5 * S), CLIENT) is None


def test_the_counted_span_reaches_to_the_ends_where_nothing_else_was_sent() -> None:
    seen = history(*(both(n) for n in range(10)))
    window = Span(3 * S, 6 * S)
    assert counted_span(seen, window, warm_up=True, cool_down=True) == window
    assert counted_span(seen, window, warm_up=False, cool_down=False) == Span(0, 9 * S)


def test_a_client_that_falls_behind_the_server_drifts() -> None:
    seen = history(both(0), both(20), both(40))
    assert engine_ttft_ms(seen, Span(0, 2 * S)) == pytest.approx(90)
    assert ttft_drift_ms(seen, Span(0, 2 * S), (95.0, 125.0)) == pytest.approx(30)


def test_a_server_that_slows_down_under_its_client_is_no_drift() -> None:
    # Means of 50 ms, then of 90 ms.
    seen = history(both(0), both(20, ttft=0.05), both(40, ttft=0.07))
    assert engine_ttft_ms(seen, Span(1 * S, 2 * S)) == pytest.approx(90)
    assert ttft_drift_ms(seen, Span(0, 2 * S), (55.0, 95.0)) == pytest.approx(0)


def test_no_drift_is_told_where_an_engine_is_silent() -> None:
    rounds = [{"replica-0": engine(n)} for n in (0, 20, 40)]
    assert ttft_drift_ms(history(*rounds), Span(0, 2 * S), (95.0, 125.0)) is None
