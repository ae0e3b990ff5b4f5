"""The ladder of the self-test, and what is made of its trials."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tri_serve.load.ceiling import Kind, Trial
from tri_serve.load.scenario.reading import read_scenario
from tri_serve.load.selftest import (
    FIRST_RATE,
    MOST_RATE,
    Try,
    ceiling_lines,
    climb,
    measure_ceiling,
    scenario_text,
    trial_line,
    trial_lines,
)


def machine(limits: dict[Kind, float], mock_limit: float = float("inf")) -> Try:
    """Believed up to so many requests a second; beyond, the client or the mock engine is full."""

    def attempt(kind: Kind, rate: float) -> Trial:
        full = rate > mock_limit
        tokens = 8 if kind == "requests" else 200
        return Trial(
            kind=kind,
            requests_per_second=rate,
            events_per_second=rate * tokens,
            open_requests=rate,
            dispatch_lag_p99_ms=0.5,
            loop_lag_p99_ms=0.8,
            cpu_share=0.4,
            cpu_wait_share=0.25,
            mock_cpu_share=0.95 if full else 0.3,
            ttft_p50_above_ms=0.4,
            believed=rate <= limits[kind] and not full,
            doubts=() if rate <= limits[kind] else ("the event loop woke late: 9 ms",),
            mock_was_full=full,
        )

    return attempt


def test_the_rate_is_doubled_until_it_is_not_believed_and_then_looked_for_between() -> None:
    trials, good, more = climb("requests", machine({"requests": 300, "events": 1}))
    assert [round(trial.requests_per_second) for trial in trials] == [50, 100, 200, 400, 400, 283, 336, 336]
    assert round(good) == 283
    assert not more


def test_a_machine_that_takes_every_rate_can_do_at_least_the_last() -> None:
    trials, good, more = climb("events", machine({"requests": 1, "events": 1e9}))
    assert (good, more) == (MOST_RATE["events"], True)
    assert len(trials) == 8


def test_a_machine_that_fails_at_the_first_rate_has_no_ceiling() -> None:
    trials, good, _ = climb("requests", machine({"requests": 1, "events": 1}))
    assert (good, len(trials)) == (0, 2)
    assert trials[0].requests_per_second == FIRST_RATE["requests"]


def test_one_disturbed_trial_is_no_ceiling() -> None:
    steady = machine({"requests": 1e9, "events": 1})
    calls: list[float] = []

    def attempt(kind: Kind, rate: float) -> Trial:
        calls.append(rate)
        trial = steady(kind, rate)
        return trial.model_copy(update={"believed": False}) if len(calls) == 2 else trial

    _, good, _ = climb("requests", attempt)
    assert good == MOST_RATE["requests"]


def test_where_the_mock_engine_is_full_first_the_client_can_do_more() -> None:
    _, good, more = climb("requests", machine({"requests": 1e9, "events": 1}, mock_limit=150))
    assert 100 <= good <= 150
    assert more


def test_the_ceiling_has_both_ladders_and_says_what_it_is_of() -> None:
    ceiling = measure_ceiling(
        machine({"requests": 100, "events": 21}),
        cpu="Some CPU",
        cores=2,
        now=datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert ceiling.requests_per_second == 100
    assert ceiling.events_per_second == 20 * 200
    assert ceiling.measured_at == "2026-01-02T00:00:00+00:00"
    text = "\n".join(ceiling_lines(ceiling))
    assert "up to\n  100 requests/s of 8 tokens\n  4,000 events/s" in text
    assert max(map(len, ceiling_lines(ceiling)[1:])) < 110


def test_a_machine_without_a_ceiling_is_told_why() -> None:
    ceiling = measure_ceiling(
        machine({"requests": 1, "events": 1}), cpu="Some CPU", cores=2, now=datetime(2026, 1, 2, tzinfo=UTC)
    )
    assert (ceiling.requests_per_second, ceiling.events_per_second) == (0, 0)
    text = "\n".join(ceiling_lines(ceiling))
    assert "no rate of requests/s of 8 tokens that was tried:\n    the event loop woke late: 9 ms" in text
    assert "For up to 25% of a trial the client was ready and had no CPU" in text


def test_one_ladder_without_a_ceiling_hides_nothing_of_the_other() -> None:
    ceiling = measure_ceiling(
        machine({"requests": 1, "events": 21}), cpu="Some CPU", cores=2, now=datetime(2026, 1, 2, tzinfo=UTC)
    )
    text = "\n".join(ceiling_lines(ceiling))
    assert "no rate of requests/s" in text
    assert "  4,000 events/s in answers of 200 tokens" in text


@pytest.mark.parametrize("kind", ["requests", "events"])
@pytest.mark.parametrize("rate", [50.0, 282.84271, 6_400.0])
def test_a_trials_scenario_is_one(tmp_path: Path, kind: Kind, rate: float) -> None:
    path = tmp_path / "selftest.yaml"
    path.write_text(scenario_text(kind, rate))
    scenario = read_scenario(str(path), ()).scenario
    assert getattr(scenario.arrivals, "rate", 0) == pytest.approx(rate, rel=1e-4)


def test_a_trials_line_has_room_for_the_largest_figures() -> None:
    trial = machine({"requests": 1, "events": 1})("events", 1_280.0)
    assert len(trial_line(trial)) <= 80
    assert trial_line(trial).endswith("doubted")


def test_a_trial_that_is_doubted_says_why() -> None:
    trial = machine({"requests": 10.0, "events": 10.0})("requests", 100.0)
    assert trial_lines(trial) == [trial_line(trial), "    the event loop woke late: 9 ms"]
    believed = machine({"requests": 1_000.0, "events": 10.0})("requests", 100.0)
    assert trial_lines(believed) == [trial_line(believed)]
