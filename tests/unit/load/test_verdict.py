"""Each threshold at, below and above its bounds; what the verdict makes of several; how a command ends."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tri_serve.errors import ClientSaturatedError, ServerUnhealthyError, SloMissedError
from tri_serve.load.evidence import Evidence
from tri_serve.load.thresholds import THRESHOLDS
from tri_serve.load.verdict import Level, error_of, judge_run, judged_value
from tri_serve.spec.slo import Slo

NAMES = [threshold.name for threshold in THRESHOLDS]


@pytest.fixture(name="figures")
def _figures(make_result):
    return make_result(seconds=30.0).figures


HEALTHY = Evidence(
    open_loop=True,
    steady_load=True,
    stopped_early=False,
    window_seconds=30.0,
    dispatch_lag_p50_ms=0.1,
    dispatch_lag_p99_ms=0.8,
    dispatch_lag_max_ms=2.0,
    loop_lag_p99_ms=0.6,
    loop_lag_max_ms=2.0,
    cpu_shares=(0.3, 0.25),
    throttled_seconds=0.0,
    gc_pause_max_ms=4.0,
    clock_step_ms=1.0,
    processes_lost=0,
    records_lost=0,
    target_rate=4.0,
    achieved_rate=4.0,
    unsent=0,
    scheduled=120,
    in_flight_mean=4.3,
    littles_law_mean=4.3,
    warm_up_seconds=10.0,
    ttft_growth=1.02,
    failure_share=0.0,
    answered=120,
    hung=0,
    without_usage=0,
    ttft_client_ms=124.0,
    ttft_server_ms=122.0,
    ttft_drift_ms=0.5,
    tokens_client=6_000,
    tokens_server=6_010,
    engine_restarts=0,
)

# What makes a threshold's measure exactly the given value, and what else is then so.
SET = {
    "dispatch-lag": lambda value: {"dispatch_lag_p99_ms": value},
    "loop-lag": lambda value: {"loop_lag_p99_ms": value},
    "cpu": lambda value: {"cpu_shares": (0.1, value)},
    "throttled": lambda value: {"throttled_seconds": value * 30.0},
    "gc": lambda value: {"gc_pause_max_ms": value},
    "clock-step": lambda value: {"clock_step_ms": value},
    "processes-lost": lambda value: {"processes_lost": math.ceil(value)},
    "records-lost": lambda value: {"records_lost": math.ceil(value)},
    "not-sent": lambda value: {"achieved_rate": 4.0 * (1 - value)},
    "ttft-growth": lambda value: {"ttft_growth": value},
    "few": lambda value: {"answered": math.ceil(100 / value) if value <= 1 else math.floor(100 / value)},
    "stopped": lambda value: {"stopped_early": value > 0},
    "ttft-drift": lambda value: {"ttft_drift_ms": value * 124.0},
    "ttft-below-server": lambda value: {"ttft_client_ms": 200.0 * (1 - value), "ttft_server_ms": 200.0},
    "tokens": lambda value: {"tokens_client": round(100_000 * (1 + value)), "tokens_server": 100_000},
    "failures": lambda value: {"failure_share": value},
    "engine-restarts": lambda value: {"engine_restarts": math.ceil(value)},
}


@pytest.fixture(name="quick")
def _quick(figures):
    """Figures of a server whose median TTFT is 100 ms, where no bound has grown."""
    ttft = figures.latencies["ttft"].model_copy(update={"p50": 100.0})
    return figures.model_copy(update={"latencies": {**figures.latencies, "ttft": ttft}})


def judged(figures, slo=Slo(), **changed):  # noqa: B008  (frozen)
    return judge_run(HEALTHY.model_copy(update=changed), figures, slo)


def test_a_healthy_run_is_valid_and_everything_was_measured(figures):
    verdict = judged(figures)
    assert (verdict.level, verdict.reasons, verdict.not_measured) == (Level.VALID, (), ())
    assert (verdict.slo_met, verdict.exit_code) == (None, 0)


@pytest.mark.parametrize("threshold", [it for it in THRESHOLDS if it.name in SET], ids=lambda it: it.name)
def test_a_threshold_speaks_above_its_bound_and_not_below(quick, threshold):
    def found(value):
        verdict = judged(quick, **SET[threshold.name](value))
        return next((reason.level for reason in verdict.reasons if reason.name == threshold.name), None)

    assert found(threshold.suspect * 0.98) is None
    above = threshold.suspect * 1.02 or 1.0
    assert found(above) is (Level.SUSPECT if above <= threshold.invalid else Level.INVALID)
    if math.isfinite(threshold.invalid):
        assert found(threshold.invalid * 1.02 or 1.0) is Level.INVALID


@pytest.mark.parametrize(
    ("changed", "level"),
    [
        # A lag of 10 % of a median TTFT of 40 ms is 4 ms, which as such is nothing.
        ({"ttft": 40.0, "lag": 4.0}, Level.SUSPECT),
        ({"ttft": 6.0, "lag": 4.0}, Level.INVALID),
        ({"ttft": 2.0, "lag": 0.9}, None),
        ({"ttft": 400.0, "lag": 4.0}, None),
    ],
)
def test_lag_is_judged_against_the_ttft_it_distorts(figures, changed, level):
    ttft = figures.latencies["ttft"].model_copy(update={"p50": changed["ttft"]})
    figures = figures.model_copy(update={"latencies": {**figures.latencies, "ttft": ttft}})
    verdict = judged(figures, dispatch_lag_p99_ms=changed["lag"])
    assert [reason.level for reason in verdict.reasons if reason.name == "dispatch-lag-share"] == (
        [level] if level else []
    )


@pytest.mark.parametrize(
    ("name", "ttft", "lag", "level"),
    [
        ("dispatch-lag", 50.0, 11.0, Level.INVALID),
        ("dispatch-lag", 1_000.0, 49.0, None),
        ("dispatch-lag", 1_000.0, 51.0, Level.SUSPECT),
        ("dispatch-lag", 1_000.0, 101.0, Level.INVALID),
        ("loop-lag", 50.0, 5.1, Level.INVALID),
        ("loop-lag", 1_000.0, 24.0, None),
        ("loop-lag", 1_000.0, 26.0, Level.SUSPECT),
        ("loop-lag", 1_000.0, 51.0, Level.INVALID),
    ],
)
def test_a_slow_server_bears_more_lateness_of_the_client(figures, name, ttft, lag, level):
    slow = figures.latencies["ttft"].model_copy(update={"p50": ttft})
    figures = figures.model_copy(update={"latencies": {**figures.latencies, "ttft": slow}})
    reasons = judged(figures, **{name.replace("-", "_") + "_p99_ms": lag}).reasons
    assert [reason.level for reason in reasons if reason.name == name] == ([level] if level else [])


@pytest.mark.parametrize(("lag", "doubted"), [(0.9, False), (1.9, False), (2.1, True)])
def test_a_late_loop_makes_the_tails_of_gaps_doubtful(figures, lag, doubted):
    gaps = figures.latencies["icl"].model_copy(update={"p99": 10.0})
    figures = figures.model_copy(update={"latencies": {**figures.latencies, "icl": gaps}})
    reasons = judged(figures, loop_lag_p99_ms=lag).reasons
    assert ("loop-lag-gaps" in [reason.name for reason in reasons]) is doubted


@pytest.mark.parametrize(("there", "doubted"), [(100, False), (104, False), (120, True), (80, True)])
def test_littles_law_is_judged_beyond_what_chance_makes_of_it(figures, there, doubted):
    verdict = judged(figures, in_flight_mean=float(there), littles_law_mean=100.0)
    assert (["littles-law"] if doubted else []) == [reason.name for reason in verdict.reasons]


def test_few_open_requests_may_differ_more_from_littles_law_than_many(figures):
    assert not judged(figures, in_flight_mean=1.08, littles_law_mean=1.0).reasons
    assert judged(figures, in_flight_mean=108.0, littles_law_mean=100.0).reasons


def test_a_warm_up_shorter_than_a_request_is_doubted(figures):
    slowest = figures.latencies["e2e"].p90 / 1000
    assert not judged(figures, warm_up_seconds=slowest * 1.1).reasons
    for seconds in (slowest * 0.9, 0.0):
        assert [reason.name for reason in judged(figures, warm_up_seconds=seconds).reasons] == ["warm-up"]


@pytest.mark.parametrize(
    ("reported", "level"), [(1_010, None), (1_050, Level.SUSPECT), (5_031, Level.INVALID)]
)
def test_another_tokenizer_than_the_server_s_is_found_out(figures, reported, level):
    tokens = figures.input_tokens.model_copy(update={"intended": 1_000, "reported": reported})
    verdict = judged(figures.model_copy(update={"input_tokens": tokens}))
    assert [reason.level for reason in verdict.reasons] == ([level] if level else [])


def test_requests_cut_off_at_the_end_are_told(figures):
    outcomes = {**figures.outcomes, "cancelled": 10}
    verdict = judged(figures.model_copy(update={"outcomes": outcomes}))
    assert [reason.name for reason in verdict.reasons] == ["cancelled"]


CLOSED = [threshold.name for threshold in THRESHOLDS if threshold.closed_loop_only]


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("cancelled", "input-tokens", *CLOSED)]
)
def test_what_was_not_measured_is_said_and_not_held_against_the_run(figures, name):
    bare = Evidence(open_loop=True, steady_load=True)
    verdict = judge_run(bare, figures, Slo())
    assert name in verdict.not_measured
    assert verdict.level is Level.VALID


def test_a_closed_loop_is_not_judged_by_a_rate_it_has_not(figures):
    verdict = judged(figures, open_loop=False, dispatch_lag_p99_ms=50.0, target_rate=None)
    assert verdict.level is Level.VALID
    assert "not-sent" not in verdict.not_measured


def test_a_load_that_is_meant_to_change_may_grow_a_queue(figures):
    changing = {"in_flight_mean": 90.0, "littles_law_mean": 40.0, "ttft_growth": 4.0}
    assert judged(figures, steady_load=True, **changing).level is Level.SUSPECT
    assert judged(figures, steady_load=False, **changing).level is Level.VALID


def test_the_worst_reason_is_first_and_sets_the_level(figures):
    verdict = judged(figures, ttft_growth=2.0, loop_lag_p99_ms=9.0)
    assert [reason.name for reason in verdict.reasons] == ["loop-lag", "loop-lag-gaps", "ttft-growth"]
    assert verdict.level is Level.INVALID


def test_a_reason_says_what_was_found_what_is_allowed_and_what_to_do(figures):
    (reason,) = judged(figures, cpu_shares=(0.2, 0.951)).reasons
    assert (reason.figure, reason.threshold, reason.cause) == ("95.1%", "90%", "client")
    assert "--processes" in reason.advice


@pytest.mark.parametrize(
    ("changed", "code", "error"),
    [
        ({}, 0, None),
        ({"ttft_growth": 2.0}, 0, None),
        ({"loop_lag_p99_ms": 9.0}, 4, ClientSaturatedError),
        ({"failure_share": 0.3}, 5, ServerUnhealthyError),
        ({"engine_restarts": 1}, 5, ServerUnhealthyError),
        # Requests pile up in the client of a server that hangs: it is the server that is told.
        ({"failure_share": 0.3, "loop_lag_p99_ms": 9.0}, 5, ServerUnhealthyError),
    ],
)
def test_how_a_command_ends(figures, changed, code, error):
    verdict = judged(figures, **changed)
    assert verdict.exit_code == code
    made = error_of(verdict)
    assert (type(made) if made else None) is error
    assert made is None or (made.exit_code == code and "\n" not in str(made))


@pytest.mark.parametrize(("ttft", "met", "code"), [(30.0, True, 0), (0.01, False, 1)])
def test_a_missed_promise_ends_with_1_unless_the_figures_are_invalid(make_result, ttft, met, code):
    slo = Slo(ttft=ttft)
    figures = make_result(seconds=30.0, slo=slo).figures
    verdict = judged(figures, slo)
    assert (verdict.slo_met, verdict.exit_code) == (met, code)
    assert judged(figures, slo, loop_lag_p99_ms=9.0).exit_code == 4
    if code:
        assert isinstance(error_of(verdict), SloMissedError)


def test_a_run_without_an_answer_is_the_servers_failure(make_result):
    verdict = make_result(failing=1.0, slo=Slo(ttft=0.5)).verdict
    assert (verdict.level, verdict.exit_code) == (Level.INVALID, 5)
    assert "nothing-answered" in {reason.name for reason in verdict.reasons}


def test_a_server_that_leaves_requests_without_a_token_is_to_blame(figures):
    verdict = judged(figures, hung=round(0.05 * figures.scheduled))
    assert [(reason.name, reason.level, reason.cause) for reason in verdict.reasons] == [
        ("hung", Level.SUSPECT, "server")
    ]
    assert judged(figures, hung=round(0.5 * figures.scheduled)).exit_code == 5


@pytest.mark.parametrize(("unsent", "code"), [(120, 4), (100, 5), (0, 5)])
def test_without_any_answer_the_client_is_to_blame_only_if_it_sent_nothing(figures, unsent, code):
    none = dict.fromkeys(figures.outcomes, 0) | {"unsent": unsent, "cancelled": 120 - unsent}
    figures = figures.model_copy(update={"outcomes": none, "scheduled": 120, "failed": 0, "latencies": {}})
    # What hangs fills the client's most_open, so that requests are not sent.
    verdict = judged(figures, hung=120 - unsent, achieved_rate=4.0 * (120 - unsent) / 120)
    assert verdict.exit_code == code


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, {}),
        # Of 30 s of window the users still began in 3, then in 9; the warm-up is too short for the depth, too.
        ({"stagger_seconds": 13.0}, {"beginning": Level.SUSPECT, "warm-up": Level.SUSPECT}),
        ({"stagger_seconds": 19.0}, {"beginning": Level.INVALID, "warm-up": Level.SUSPECT}),
        ({"stagger_seconds": 9.9}, {"warm-up": Level.SUSPECT}),
        ({"users": 5}, {"idle-users": Level.SUSPECT}),
    ],
)
def test_a_closed_loop_whose_users_are_not_all_there_is_doubted(figures, changed, found):
    changed = {"stagger_seconds": 2.0, "users": 4, **changed}
    verdict = judged(figures, open_loop=False, target_rate=None, **changed)
    assert {reason.name: reason.level for reason in verdict.reasons} == found


@pytest.mark.parametrize(("without", "level"), [(0, None), (1, Level.SUSPECT), (13, Level.INVALID)])
def test_tokens_that_the_server_did_not_report_are_not_known(figures, without, level):
    reasons = judged(figures, without_usage=without).reasons
    assert [(reason.name, reason.level) for reason in reasons] == ([("usage", level)] if level else [])


def test_the_cpu_share_of_less_than_a_second_is_not_judged(figures):
    short = figures.model_copy(update={"window_seconds": 0.4})
    assert "cpu" not in [reason.name for reason in judged(short, cpu_shares=(0.999,)).reasons]


def test_every_threshold_has_its_reason_and_its_advice():
    assert len(set(NAMES)) == len(NAMES)
    for threshold in THRESHOLDS:
        assert threshold.suspect <= threshold.invalid, threshold.name
        for field in dataclasses.fields(threshold):
            optional = field.name in ("unit", "grows_with")
            assert getattr(threshold, field.name) != "" or optional, (threshold.name, field.name)
        assert bool(threshold.grows_with) is (threshold.grows is not None), threshold.name


def test_few_answers_are_told_as_so_many_of_those_wanted(figures):
    (reason,) = judged(figures, answered=20).reasons
    assert reason.said == "20 answers; 100 are wanted"
    threshold = next(it for it in THRESHOLDS if it.name == "few")
    evidence = HEALTHY.model_copy(update={"answered": 2_000})
    assert judged_value(threshold, evidence, figures) == ("2,000", "fewer than 100", "–")


def test_a_run_that_was_stopped_is_not_told_to_wait_longer_for_its_last_requests(figures):
    cut = figures.model_copy(update={"outcomes": {**figures.outcomes, "cancelled": 30}})
    assert {reason.name for reason in judged(cut).reasons} == {"cancelled"}
    assert {reason.name for reason in judged(cut, stopped_early=True).reasons} == {"stopped"}


def test_a_window_in_which_nothing_was_due_is_not_the_client_s_fault(figures):
    none = figures.model_copy(update={"scheduled": 0, "outcomes": dict.fromkeys(figures.outcomes, 0)})
    reason = next(it for it in judged(none).reasons if it.level is Level.INVALID)
    assert (reason.name, reason.cause, reason.figure) == ("nothing-due", "load", "0")


def test_advice_on_what_was_not_sent_names_the_option_that_a_user_types(figures):
    (reason,) = judged(figures, achieved_rate=3.8).reasons
    assert "--max-concurrency" in reason.advice
