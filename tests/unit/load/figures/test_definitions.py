"""Figures of one request against times that were made up by hand."""

from __future__ import annotations

import pytest

from tri_serve.load.figures import definitions as define
from tri_serve.load.records import Outcome
from tri_serve.spec.slo import Slo

MS = 1_000_000


def test_ours_counts_from_the_first_token_and_vllm_from_the_first_event_with_choices(make_record):
    record = make_record(role=20, ttft=100)
    assert define.ttft(record) == 100 * MS
    assert define.ttft_vllm(record) == 20 * MS


def test_time_from_the_schedule_holds_what_the_client_was_late(make_record):
    record = make_record(lag=30, ttft=100, gaps=[10])
    assert define.ttft(record) == 100 * MS
    assert define.ttft_sched(record) == 130 * MS
    assert define.e2e_sched(record) - define.e2e(record) == 30 * MS
    assert define.dispatch_lag(record) == 30 * MS


def test_end_to_end_has_the_usage_event_and_vllm_s_has_it_not(make_record):
    record = make_record(ttft=100, gaps=[10, 10], usage_after=7)
    assert define.e2e(record) == 127 * MS
    assert define.e2el_vllm(record) == 120 * MS


def test_tpot_is_over_tokens_less_one_in_both_families(make_record):
    record = make_record(role=20, ttft=100, gaps=[10, 20, 30])
    assert record.output_tokens == 4
    assert define.tpot(record) == pytest.approx(20 * MS)
    assert define.tpot_vllm(record) == pytest.approx((160 - 20) / 3 * MS)


def test_one_token_has_no_tpot_and_keeps_any_bound_on_it(make_record):
    record = make_record(gaps=[])
    assert define.tpot(record) is None
    assert define.tpot_vllm(record) is None
    assert define.is_good(record, Slo(tpot=0.001))
    assert define.is_good_vllm(record, Slo(tpot=0.001))


def test_a_gap_is_shared_by_the_tokens_of_its_event(make_record):
    record = make_record(gaps=[10, 30], tokens=[1, 1, 3])
    assert list(define.icl(record)) == [10 * MS, 30 * MS]
    assert list(define.itl(record)) == [(10 * MS, 1), (10 * MS, 3)]
    assert define.max_gap(record) == 30 * MS


def test_events_without_tokens_are_no_end_of_a_gap_of_ours_and_one_of_vllm_s(make_record):
    record = make_record(role=20, ttft=100, gaps=[10, 5], tokens=[1, 0, 1])
    assert list(define.icl(record)) == [15 * MS]
    assert list(define.itl_vllm(record)) == [80 * MS, 10 * MS, 5 * MS]


def test_what_did_not_happen_has_no_figure(make_record):
    unsent = make_record(outcome=Outcome.UNSENT)
    for figure in (
        define.ttft,
        define.ttft_sched,
        define.tpot,
        define.e2e,
        define.dispatch_lag,
        define.max_gap,
    ):
        assert figure(unsent) is None
    assert not define.is_good(unsent, Slo())


@pytest.mark.parametrize("lag", [0, 60])
def test_goodput_counts_from_when_a_request_was_due(make_record, lag):
    record = make_record(lag=lag, ttft=100)
    assert define.is_good(record, Slo(ttft=0.15)) is (lag == 0)
    assert define.is_good_vllm(record, Slo(ttft=0.15))


def test_a_bound_is_kept_at_the_bound_itself(make_record):
    record = make_record(ttft=100, gaps=[10], usage_after=0)
    exactly = Slo(ttft=0.1, tpot=0.01, e2e=0.11)
    assert define.is_good(record, exactly)
    assert define.is_good_vllm(record, exactly)
    for name in ("ttft", "tpot", "e2e"):
        tighter = exactly.model_copy(update={name: getattr(exactly, name) - 0.0001})
        assert not define.is_good(record, tighter), name
        assert not define.is_good_vllm(record, tighter), name


@pytest.mark.parametrize(
    "outcome", [Outcome.IN_BAND_ERROR, Outcome.EMPTY, Outcome.SHORT, Outcome.BAD_TEXT, Outcome.BAD_JSON]
)
def test_vllm_calls_answered_what_ours_calls_failed(make_record, outcome):
    record = make_record(outcome=outcome)
    assert define.answered_vllm(record)
    assert not define.is_good(record, Slo())


@pytest.mark.parametrize("outcome", [Outcome.STATUS, Outcome.CUT, Outcome.TIMEOUT, Outcome.CANCELLED])
def test_vllm_too_fails_what_raises_or_has_another_status(make_record, outcome):
    assert not define.answered_vllm(make_record(outcome=outcome))


def test_vllm_fails_a_stream_without_choices(make_record):
    record = make_record()
    record.first_choice = 0
    assert not define.answered_vllm(record)
