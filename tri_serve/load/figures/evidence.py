"""The evidence that lies in the records themselves: lag, rates, queues."""

from __future__ import annotations

from tri_serve.load.evidence import Evidence
from tri_serve.load.figures.collector import Collector
from tri_serve.load.figures.summary import summarise
from tri_serve.load.records import Outcome

FEWEST_FOR_GROWTH = 30
"""Answered requests in each half of the window, below which a mean TTFT says nothing of growth."""


def evidence_of(
    collector: Collector, *, open_loop: bool, steady_load: bool, warm_up_seconds: float
) -> Evidence:
    """What the records themselves say: lag, rates, queues. The caller adds what watches and scrapes found.

    ``steady_load``: whether the arrivals have one rate over the window (no ramp, steps or spike).
    """
    figures, run = summarise(collector), collector.run
    seconds = figures.window_seconds
    unsent = figures.outcomes[Outcome.UNSENT.value]
    lag = collector.dispatch_lag.distribution()
    whole_window = collector.ended is None
    judge_queue = whole_window and seconds > 0
    enough = min(run.early, run.late) >= FEWEST_FOR_GROWTH and steady_load and whole_window
    growth = (run.late_ttft_ns / run.late) / (run.early_ttft_ns / run.early) if enough else None
    return Evidence(
        open_loop=open_loop,
        steady_load=steady_load,
        stopped_early=collector.stopped,
        window_seconds=seconds,
        dispatch_lag_p50_ms=lag.p50 if lag.count else None,
        dispatch_lag_p99_ms=lag.p99 if lag.count else None,
        dispatch_lag_max_ms=lag.max if lag.count else None,
        target_rate=figures.scheduled_rate if open_loop else None,
        achieved_rate=figures.sent_rate,
        unsent=unsent,
        scheduled=figures.scheduled,
        in_flight_mean=run.open_ns / 1e9 / seconds if judge_queue else None,
        littles_law_mean=run.residence_ns / 1e9 / seconds if judge_queue else None,
        warm_up_seconds=warm_up_seconds,
        ttft_growth=growth,
        failure_share=figures.failure_share,
        answered=figures.outcomes[Outcome.OK.value],
        without_usage=run.without_usage,
        hung=run.hung,
        ttft_client_ms=_mean_ms(
            run.first_half_ttft_ns + run.second_half_ttft_ns, run.first_half + run.second_half
        ),
        tokens_client=round(run.delivered_tokens),
    )


def client_ttft_halves(collector: Collector) -> tuple[float | None, float | None]:
    """Mean TTFT in ms, sent → first token, of first tokens in either half of the window."""
    run = collector.run
    return (
        _mean_ms(run.first_half_ttft_ns, run.first_half),
        _mean_ms(run.second_half_ttft_ns, run.second_half),
    )


def _mean_ms(total_ns: int, count: int) -> float | None:
    """None of none."""
    return total_ns / count / 1e6 if count else None
