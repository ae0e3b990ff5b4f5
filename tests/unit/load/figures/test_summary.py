"""What many requests add up to, in one process or in several."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tri_serve.load.figures import samples
from tri_serve.load.figures.collector import Collector, Window
from tri_serve.load.figures.evidence import client_ttft_halves, evidence_of
from tri_serve.load.figures.summary import summarise
from tri_serve.load.records import Outcome, Phase
from tri_serve.spec.slo import Slo

SECOND = 1_000_000_000
START = 1_000 * SECOND
WINDOW = Window(START, START + 10 * SECOND, START - 2 * SECOND)


def collected(records, slo=Slo(), window=WINDOW):  # noqa: B008  (frozen)
    collector = Collector(window, slo)
    for record in records:
        collector.add(record)
    return collector


def test_only_what_is_due_in_the_window_is_counted(make_record):
    records = [
        make_record(0, due=-1, phase=Phase.WARM_UP, ttft=900),
        make_record(1, due=1),
        make_record(2, due=11, phase=Phase.COOL_DOWN, ttft=900),
    ]
    figures = summarise(collected(records))
    assert figures.scheduled == 1
    assert figures.latencies["ttft"].max == pytest.approx(100)


def test_goodput_is_over_all_that_was_due_less_what_was_cancelled_at_the_end(make_record):
    records = [
        make_record(0),
        make_record(1, ttft=400),
        make_record(2, outcome=Outcome.CUT),
        make_record(3, outcome=Outcome.UNSENT),
        make_record(4, outcome=Outcome.CANCELLED),
    ]
    figures = summarise(collected(records, Slo(ttft=0.2)))
    assert (figures.goodput.good, figures.goodput.of, figures.goodput.share) == (1, 4, 0.25)
    assert figures.failed == 1
    assert figures.failure_share == pytest.approx(1 / 3)
    assert (figures.scheduled_rate, figures.sent_rate) == (0.5, 0.4)
    assert figures.outcomes["timeout"] == 0


def hanging(make_record, index=0, first_token=0.0, asked=101):
    """Cancelled without an end, due at 0; with or without a first token (ms)."""
    record = make_record(
        index, outcome=Outcome.CANCELLED, ttft=first_token, gaps=(), done=0, intended_output_tokens=asked
    )
    if not first_token:
        record.head = record.first_choice = record.first_token = record.last_choice = record.last = 0
        record.event_times, record.event_tokens, record.output_tokens = [], [], 0
    return record


@pytest.mark.parametrize(
    ("first_token", "slo", "seconds", "counted"),
    [
        (0, Slo(ttft=0.5), 9.0, True),
        (0, Slo(e2e=5.0), 9.0, True),
        (0, Slo(), 9.0, True),
        (100, Slo(ttft=0.5), 9.0, False),
        (600, Slo(ttft=0.5), 9.0, True),
        (100, Slo(e2e=5.0), 9.0, True),
        (100, Slo(e2e=5.0), 4.0, False),
        # 100 tokens are still due 10 s after the first: 100 ms each at best.
        (100, Slo(tpot=0.09), 10.2, True),
        (100, Slo(tpot=0.11), 10.2, False),
    ],
)
def test_a_cancelled_request_that_broke_a_promise_is_no_good_one(
    make_record, first_token, slo, seconds, counted
):
    collector = collected([make_record(1)], slo)
    collector.add(hanging(make_record, first_token=first_token), given_up=START + round(seconds * SECOND))
    goodput = summarise(Collector.merge([collector.to_message()])).goodput
    assert (goodput.good, goodput.of) == (1, 2 if counted else 1)


def test_what_hangs_until_the_grace_is_over_is_evidence_and_what_a_stop_cancels_is_not(make_record):
    def hung(collector):
        collector.add(hanging(make_record), given_up=START + 12 * SECOND)
        merged = Collector.merge([collector.to_message()])
        return evidence_of(merged, open_loop=True, steady_load=True, warm_up_seconds=0).hung

    assert hung(collected([])) == 1
    stopped = collected([])
    stopped.stop(START + 12 * SECOND)
    assert hung(stopped) == 0


def test_tokens_are_credited_when_they_came_whosever_request_it_was(make_record):
    before = make_record(0, due=-0.5, phase=Phase.WARM_UP, ttft=250, gaps=[500] * 3)  # 2 of 4 in the window
    beyond = make_record(1, due=9.5, ttft=250, gaps=[500] * 3)  # 1 of 4
    figures = summarise(collected([before, beyond]))
    assert figures.steady.output_tokens_per_second == pytest.approx((3 + 1) / 10)
    assert figures.steady.requests_per_second == pytest.approx(0.1)
    assert figures.whole.output_tokens_per_second * figures.whole.seconds == pytest.approx(8)


def test_tokens_of_events_add_up_to_the_servers_count(make_record):
    # Bytes of a Korean character over three tokens: two events bear no text, and were taken for no tokens.
    record = make_record(due=1, gaps=[10] * 3, tokens=[1, 0, 0, 1], output_tokens=4)
    assert summarise(collected([record])).steady.output_tokens_per_second == pytest.approx(0.4)


def test_failed_requests_give_no_throughput_but_the_server_generated_their_tokens(make_record):
    collector = collected([make_record(due=1, outcome=Outcome.CUT)])
    assert summarise(collector).steady.output_tokens_per_second == 0
    assert collector.run.delivered_tokens == 10


def test_processes_add_up_to_what_one_would_have_seen(make_record):
    chance = np.random.default_rng(3)
    records = [
        make_record(
            index,
            due=float(due),
            role=5.0,
            ttft=float(chance.lognormal(4, 0.5)),
            gaps=chance.lognormal(2, 0.5, 20).tolist(),
            group=("a", "b")[index % 2],
        )
        for index, due in enumerate(chance.uniform(0, 10, 300))
    ]
    one = summarise(collected(records, Slo(ttft=0.06)))
    messages = [collected(records[part::3], Slo(ttft=0.06)).to_message() for part in range(3)]
    three = summarise(Collector.merge(json.loads(json.dumps(messages))))
    # Sums of floats differ in their last digits with the order in which they are added.
    assert json.dumps(_rounded(three.model_dump())) == json.dumps(_rounded(one.model_dump()))


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(below) for below in value]
    return round(value, 6) if isinstance(value, float) else value


def test_percentiles_are_numpys_while_samples_are_few_and_the_result_says_so(make_record, monkeypatch):
    ttfts = np.random.default_rng(5).lognormal(4, 1, 150)
    records = [make_record(index, ttft=float(ttft)) for index, ttft in enumerate(ttfts)]
    exact = summarise(collected(records)).latencies["ttft"]
    assert exact.exact
    assert exact.p99 == pytest.approx(np.percentile(ttfts, 99), abs=1e-5)
    monkeypatch.setattr(samples, "EXACT_SAMPLES", 100)
    counted = summarise(collected(records)).latencies["ttft"]
    assert not counted.exact
    assert counted.p99 == pytest.approx(np.percentile(ttfts, 99, method="inverted_cdf"), rel=0.001)
    assert counted.mean == pytest.approx(exact.mean)


def test_progress_messages_hold_no_single_samples_and_still_add_up(make_record):
    collector = collected([make_record(index, due=index / 100) for index in range(500)])
    small, whole = collector.to_message(exact=False), collector.to_message()
    assert len(json.dumps(small)) < len(json.dumps(whole)) / 2
    figures = summarise(Collector.merge([small]))
    assert figures.latencies["ttft"].p50 == pytest.approx(100, rel=0.001)
    assert not figures.latencies["ttft"].exact
    assert figures.vllm.max_concurrent_requests > 0


def test_figures_of_different_windows_do_not_add_up(make_record):
    other = Window(START, START + 11 * SECOND)
    messages = [collected([]).to_message(), collected([], window=other).to_message()]
    with pytest.raises(ValueError, match="different windows"):
        Collector.merge(messages)
    with pytest.raises(ValueError, match="no message"):
        Collector.merge([])


def test_a_stopped_run_has_rates_of_the_time_that_it_ran(make_record):
    collector = collected([make_record(index, due=index / 10) for index in range(50)])
    collector.stop(START + 5 * SECOND + SECOND // 2)
    figures = summarise(collector)
    assert figures.window_seconds == 5.5
    assert figures.scheduled_rate == pytest.approx(50 / 5.5)
    # Each takes 0.191 s: the last one ends after the five whole seconds, which are what is credited by time.
    assert figures.steady.seconds == 5
    assert figures.steady.requests_per_second == pytest.approx(49 / 5)


def test_a_stop_after_the_window_changes_nothing(make_record):
    collector = collected([make_record()])
    collector.stop(START + 12 * SECOND)
    assert summarise(collector).window_seconds == 10


def test_answers_without_usage_and_events_of_several_tokens_are_counted(make_record):
    records = [make_record(0, output_tokens=20), make_record(1, usage_reported=False)]
    collector = Collector.merge([collected(records).to_message()])
    evidence = evidence_of(collector, open_loop=True, steady_load=True, warm_up_seconds=0)
    assert (evidence.without_usage, evidence.answered) == (1, 2)
    assert summarise(collector).tokens_an_event == 2.0


def test_tokens_asked_for_are_laid_beside_tokens_counted(make_record):
    records = [make_record(0), make_record(1, input_tokens=1_005), make_record(2, usage_reported=False)]
    tokens = summarise(collected(records)).input_tokens
    assert (tokens.requests, tokens.intended, tokens.reported, tokens.exact) == (2, 400, 1_205, 1)
    assert tokens.largest_difference == 805


def test_many_different_failures_are_named_up_to_a_limit_and_counted_all(make_record):
    records = [make_record(i, outcome=Outcome.STATUS, detail=f"503 number {i}") for i in range(200)]
    figures = summarise(collected(records))
    assert len(figures.failure_details) == 12
    assert sum(figures.failure_details.values()) + figures.details_left_out == 200


def test_slots_say_what_was_open_and_how_late_first_tokens_were(make_record):
    figures = summarise(collected([make_record(0, due=1.5, ttft=700, gaps=[300], usage_after=0)]))
    slots = {slot.at: slot for slot in figures.slots}
    assert (slots[1.0].open, slots[2.0].open) == (0.5, 0.5)
    assert (slots[1.0].sent, slots[2.0].completed, slots[2.0].output_tokens) == (1, 1, 2)
    assert slots[1.0].ttft_p99 == pytest.approx(700, rel=0.03)
    assert slots[2.0].ttft_p50 is None


def test_slots_of_a_day_are_no_more_than_those_of_half_an_hour(make_record):
    day = Window(START, START + 86_400 * SECOND)
    records = [make_record(hour, due=3_600.0 * hour) for hour in range(24)]
    collector = collected(records, window=day)
    assert day.slot_ns == 48 * SECOND
    assert len(summarise(collector).slots) == 24


def test_vllm_s_peaks_are_counted_from_the_first_start(make_record):
    # Two streams of 10 events 0.1 s apart, 0.5 s after each other, astride two seconds of the window.
    records = [make_record(i, due=0.7 + 0.5 * i, ttft=100, gaps=[100] * 9, usage_after=0) for i in range(2)]
    vllm = summarise(collected(records)).vllm
    # Seconds from 0.7 on: 9 events of the first (0.1 to 0.9) and 4 of the second.
    assert vllm.max_output_tokens_per_s == 13
    assert vllm.max_concurrent_requests == 2
    # The first request was due 0.7 s after vLLM would have started its clock.
    assert vllm.duration == pytest.approx(2.2)
    assert vllm.request_throughput == pytest.approx(2 / 2.2)


def test_littles_law_holds_in_a_steady_window(make_record):
    records = [
        make_record(index, due=index / 50 - 2, ttft=500, gaps=[50] * 10, phase=phase)
        for index in range(600)
        if (phase := Phase.WARM_UP if index < 100 else Phase.WINDOW)
    ]
    evidence = evidence_of(collected(records), open_loop=True, steady_load=True, warm_up_seconds=2)
    assert evidence.in_flight_mean == pytest.approx(50 * 1.001, rel=0.01)
    assert evidence.littles_law_mean == pytest.approx(50 * 1.001, rel=0.01)
    assert evidence.ttft_growth == pytest.approx(1.0)
    assert evidence.ttft_client_ms == pytest.approx(500)


def test_a_growing_queue_shows_in_the_evidence(make_record):
    records = [make_record(index, due=index / 50, ttft=100 + 10 * index) for index in range(500)]
    collector = collected(records)
    evidence = evidence_of(collector, open_loop=True, steady_load=True, warm_up_seconds=0)
    assert evidence.ttft_growth > 2
    assert evidence.in_flight_mean > 1.5 * evidence.littles_law_mean
    early, late = client_ttft_halves(collector)
    assert late > 1.5 * early


def test_a_load_that_is_meant_to_change_has_no_growth(make_record):
    records = [make_record(index, due=index / 50, ttft=100 + 10 * index) for index in range(500)]
    evidence = evidence_of(collected(records), open_loop=True, steady_load=False, warm_up_seconds=0)
    assert evidence.ttft_growth is None


def test_a_request_cancelled_without_a_time_was_open_to_the_window_s_end(make_record):
    record = make_record(due=5, outcome=Outcome.CANCELLED)
    record.done = 0
    evidence = evidence_of(collected([record]), open_loop=True, steady_load=True, warm_up_seconds=0)
    assert evidence.in_flight_mean == pytest.approx(0.5)


def test_no_request_at_all_gives_figures_that_say_so():
    figures = summarise(collected([]))
    assert figures.scheduled == 0
    assert figures.goodput.share is None
    assert figures.failure_share is None
    assert figures.latencies == {}
    assert figures.vllm.duration == 0
