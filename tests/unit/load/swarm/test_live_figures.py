"""What is shown while a run goes on."""

from __future__ import annotations

import pytest

from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.load.swarm.live_figures import LiveCounts, merge_live, percentile
from tri_serve.spec.slo import Slo

S = 1_000_000_000
MS = 1_000_000


def answered(index: int, at: int, ttft_ms: int, phase: Phase = Phase.WINDOW) -> Record:
    first = at + ttft_ms * MS
    times = [first, first + 10 * MS, first + 20 * MS]
    return Record(
        index, "i", phase=phase, outcome=Outcome.OK, scheduled=at, dispatched=at + MS, sent=at,
        first_choice=first, first_token=first, last_choice=times[-1], last=times[-1], done=times[-1],
        event_times=times, event_tokens=[1, 1, 1], output_tokens=3, usage_reported=True,
    )  # fmt: skip


def test_processes_add_up() -> None:
    slo = Slo(ttft=0.1)
    one, two = LiveCounts(slo), LiveCounts(slo)
    one.add(answered(0, 100 * S, 50))
    one.add(Record(2, "i", outcome=Outcome.UNSENT))
    two.add(answered(1, 100 * S, 150))
    two.add(Record(3, "i", outcome=Outcome.STATUS))
    messages = [one.to_message(101 * S, 2), two.to_message(101 * S, 1)]
    live = merge_live(messages, loaded_seconds=5.0, slo=slo)
    assert (live["scheduled"], live["completed"], live["failed"], live["unsent"]) == (4, 2, 1, 1)
    assert live["open_requests"] == 3
    assert live["outcomes"] == {"unsent": 1, "status": 1}
    assert live["goodput_share"] == pytest.approx(0.25)
    assert live["requests_per_second"] == pytest.approx(2 / 5)
    assert live["output_tokens_per_second"] == pytest.approx(6 / 5)
    assert (live["ttft_p50_ms"], live["ttft_p99_ms"]) == (150, 150)
    assert live["tpot_p50_ms"] == pytest.approx(10)
    assert live["dispatch_lag_p99_ms"] == pytest.approx(1)


def test_only_the_window_is_counted_but_rates_are_of_now() -> None:
    counts = LiveCounts(Slo())
    counts.add(answered(0, 100 * S, 50, Phase.WARM_UP))
    live = merge_live([counts.to_message(101 * S, 0)], loaded_seconds=1.0, slo=Slo())
    assert (live["scheduled"], live["completed"], live["ttft_p50_ms"]) == (0, 0, None)
    assert live["requests_per_second"] == 1
    assert live["goodput_share"] is None


def test_rates_forget_what_is_long_past() -> None:
    counts = LiveCounts(Slo())
    counts.add(answered(0, 100 * S, 50))
    assert counts.to_message(105 * S, 0)["requests"] == 1
    assert counts.to_message(130 * S, 0)["requests"] == 0


def test_what_was_cancelled_is_not_counted() -> None:
    counts = LiveCounts(Slo())
    counts.add(Record(0, "i", outcome=Outcome.CANCELLED))
    assert counts.to_message(1, 0)["scheduled"] == 0


def test_messages_stay_small_however_long_a_run_is() -> None:
    counts = LiveCounts(Slo())
    for index in range(5_000):
        counts.add(answered(index, index * S, 50))
    message = counts.to_message(5_000 * S, 0)
    assert sum(len(values) for values in message["latest"].values()) < 5_000
    assert message["scheduled"] == 5_000


def test_percentiles_of_nothing_are_none() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.99) == 3.0
